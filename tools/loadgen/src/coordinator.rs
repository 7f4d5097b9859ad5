//! The broker that keeps a group's or a transactional id's state, found again when it moves or restarts.

use glommio::timer::sleep;
use kafka_protocol::messages::FindCoordinatorRequest;
use kafka_protocol::protocol::{Request, StrBytes};

use crate::clock;
use crate::cluster::{Bootstrap, ClusterError, LEADERS_TIMEOUT, RETRY_WAIT, is_retriable};
use crate::connection::{CallError, Connection};
use crate::versions::Api;

const RECEIVE_SIZE: usize = 64 << 10;

const COORDINATOR_LOAD_IN_PROGRESS: i16 = 14;
const COORDINATOR_NOT_AVAILABLE: i16 = 15;
const NOT_COORDINATOR: i16 = 16;

/// Whose coordinator is looked for (FindCoordinator's key type).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyType {
    Group,
    Transaction,
}

/// Lives: as long as the group's member or the producer.
pub struct Coordinator {
    bootstrap: Bootstrap,
    key: String,
    key_type: KeyType,
    connection: Option<Connection>,
}

impl Coordinator {
    pub fn new(bootstrap: &Bootstrap, key_type: KeyType, key: &str) -> Coordinator {
        Coordinator { bootstrap: bootstrap.clone(), key: key.to_owned(), key_type, connection: None }
    }

    /// The connection to it, once it is found.
    pub async fn connection(&mut self) -> Result<&mut Connection, ClusterError> {
        if self.connection.is_none() {
            let give_up = clock::now().after(LEADERS_TIMEOUT);
            let found = loop {
                match self.find().await {
                    Err(error) if may_pass(&error) && clock::now() < give_up => sleep(RETRY_WAIT).await,
                    found => break found?,
                }
            };
            self.connection = Some(found);
        }
        Ok(self.connection.as_mut().expect("it was just made"))
    }

    async fn find(&self) -> Result<Connection, ClusterError> {
        let mut connection = self.bootstrap.connect().await?;
        let version = connection.version(Api::FindCoordinator)?;
        let key_type = match self.key_type {
            KeyType::Group => 0,
            KeyType::Transaction => 1,
        };
        let request = FindCoordinatorRequest::default()
            .with_key(StrBytes::from_string(self.key.clone()))
            .with_key_type(key_type);
        let found = connection.call(&request, version).await?;
        if found.error_code != 0 {
            return Err(ClusterError::Refused { what: "FindCoordinator", code: found.error_code });
        }
        let address = format!("{}:{}", found.host.as_str(), found.port);
        Ok(Connection::open(&address, RECEIVE_SIZE).await?)
    }

    /// Asks until the answer is one that asking again does not change; at most at version `newest`.
    /// `code` finds the error in an answer, which is called one of `what`.
    pub async fn ask<R: Request>(
        &mut self,
        (api, what): (Api, &'static str),
        newest: i16,
        request: &R,
        code: impl Fn(&R::Response) -> i16,
    ) -> Result<R::Response, ClusterError> {
        let give_up = clock::now().after(LEADERS_TIMEOUT);
        loop {
            let connection = self.connection().await?;
            let version = connection.version(api)?.min(newest);
            let error = match connection.call(request, version).await {
                Ok(answer) => match code(&answer) {
                    0 => return Ok(answer),
                    code => ClusterError::Refused { what, code },
                },
                Err(error) => error.into(),
            };
            if !may_pass(&error) || clock::now() >= give_up {
                return Err(error);
            }
            if has_moved(&error) {
                self.connection = None;
            }
            sleep(RETRY_WAIT).await;
        }
    }

    /// It is looked for again before the next question.
    pub fn forget(&mut self) {
        self.connection = None;
    }
}

/// Whether a coordinator is to be asked again: it restarts, or is elsewhere, or busy with this key.
fn may_pass(error: &ClusterError) -> bool {
    match error {
        ClusterError::Call(CallError::Io { .. } | CallError::Timeout { .. })
        | ClusterError::NoBroker { .. } => true,
        ClusterError::Refused { code, .. } => is_retriable(*code),
        ClusterError::Call(_)
        | ClusterError::Topic { .. }
        | ClusterError::Create { .. }
        | ClusterError::NoLeader { .. } => false,
    }
}

pub fn has_moved(error: &ClusterError) -> bool {
    match error {
        ClusterError::Refused { code, .. } => {
            [COORDINATOR_LOAD_IN_PROGRESS, COORDINATOR_NOT_AVAILABLE, NOT_COORDINATOR].contains(code)
        }
        ClusterError::Call(_) => true,
        ClusterError::NoBroker { .. }
        | ClusterError::Topic { .. }
        | ClusterError::Create { .. }
        | ClusterError::NoLeader { .. } => false,
    }
}
