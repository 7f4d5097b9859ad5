use super::samples::samples;
use super::*;
use crate::codec::api::schema::{Field, Kind, Structure};
use crate::codec::wire::{Encoding, Writer};
use crate::types::limits::{REQUEST_ELEMENTS_MAX, REQUEST_TAGGED_FIELDS_MAX};
use kafka_protocol::messages::ApiKey as LibraryKey;
use kafka_protocol::messages::fetch_request::FetchTopic;
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::protocol::{Encodable, StrBytes};
use proptest::collection::vec;
use proptest::prelude::*;

#[test]
fn samples_of_every_version_survive_the_round_trip() {
    for (api_key, version) in decodable() {
        for body in sample(api_key, version) {
            let request = decode_request(api_key, version, body.clone());
            let request = request.unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(encode(&request, version), body, "{} {version}", api_key.name());
        }
    }
}

#[test]
fn every_cut_is_refused_and_additions_are_ignored() {
    for (api_key, version) in decodable() {
        for body in sample(api_key, version) {
            for end in 0..body.len() {
                let cut = decode_request(api_key, version, body.slice(..end));
                assert!(cut.is_err(), "{} {version} cut to {end}", api_key.name());
            }
            let longer = Bytes::from([&body[..], &[0]].concat());
            let whole = decode_request(api_key, version, body.clone());
            assert_eq!(decode_request(api_key, version, longer), whole, "{} {version}", api_key.name());
        }
    }
}

/// librdkafka 2.16 asks for all topics: no topics, then three bytes too many.
#[test]
fn librdkafkas_request_for_all_topics_is_understood() {
    let body = Bytes::from_static(&[0, 0, 0, 0, 1, 0, 0]);
    let request = decode_request(ApiKey::Metadata, 12, body).expect("Kafka takes it");
    let Request::Metadata(request) = request else { panic!("{request:?}") };
    assert_eq!(request.topics, None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// The descriptions allow nothing that the library reads otherwise, in any version.
    #[test]
    fn whatever_fits_its_description_is_decoded_whole(
        at in 0..decodable().len(), entropy in vec(any::<u8>(), 0..200)
    ) {
        let (api_key, version) = decodable()[at];
        let mut bodies = Bodies { version, encoding: api_key.encoding(version), entropy, at: 0 };
        let mut body = Vec::new();
        bodies.structure(schema(api_key).unwrap(), &mut body);
        let request = decode_request(api_key, version, body.clone().into());
        prop_assert!(request.is_ok(), "{} {version} {body:?}: {request:?}", api_key.name());
        prop_assert_eq!(encode(&request.unwrap(), version).len(), body.len());
    }

    #[test]
    fn damaged_requests_never_panic(
        at in 0..decodable().len(), populated: bool, flips in vec((any::<usize>(), any::<u8>()), 1..4)
    ) {
        let (api_key, version) = decodable()[at];
        let mut body = sample(api_key, version)[usize::from(populated)].to_vec();
        for (at, value) in flips {
            let size = body.len().max(1);
            if let Some(byte) = body.get_mut(at % size) {
                *byte = value;
            }
        }
        // What the walk accepts, the library reads to the end, or names a tag it does not know.
        let decoded = decode_request(api_key, version, body.into());
        if let Err(RequestError::Refused { reason, .. }) = decoded {
            prop_assert!(reason.starts_with("Tag "), "{}", reason);
        }
    }

    #[test]
    fn any_bytes_never_panic(at in 0..decodable().len(), body in vec(any::<u8>(), 0..100)) {
        let (api_key, version) = decodable()[at];
        let _ = decode_request(api_key, version, body.into());
    }
}

#[test]
fn an_array_of_two_billion_is_refused() {
    let error = decode_request(ApiKey::Metadata, 1, Bytes::from_static(&[0x7f, 0xff, 0xff, 0xff])).err();
    let error = error.unwrap().to_string();
    assert_eq!(
        error,
        "Metadata 1 is malformed: field topics: 2147483647 elements announced at byte 0, 0 bytes are there"
    );
    let error = decode_request(ApiKey::Metadata, 12, Bytes::from_static(&[0xff, 0xff, 0xff, 0xff, 0x0f]));
    assert!(error.is_err());
}

#[test]
fn too_many_elements_are_refused_even_if_their_bytes_are_there() {
    let topics = |count| {
        let topic = MetadataRequestTopic::default().with_name(Some(StrBytes::new().into()));
        encode(&Request::Metadata(MetadataRequest::default().with_topics(Some(vec![topic; count]))), 9)
    };
    assert!(decode_request(ApiKey::Metadata, 9, topics(REQUEST_ELEMENTS_MAX)).is_ok());
    let error = decode_request(ApiKey::Metadata, 9, topics(REQUEST_ELEMENTS_MAX + 1)).err();
    let (api_key, version) = (ApiKey::Metadata, 9);
    let expected = RequestError::Malformed { api_key, version, error: WalkError::TooManyElements };
    assert_eq!(error, Some(expected));
}

#[test]
fn too_many_tagged_fields_are_refused() {
    let topic = FetchTopic::default().with_unknown_tagged_field(9, Bytes::new());
    let topics =
        |count| encode(&Request::Fetch(FetchRequest::default().with_topics(vec![topic.clone(); count])), 12);
    assert!(decode_request(ApiKey::Fetch, 12, topics(REQUEST_TAGGED_FIELDS_MAX)).is_ok());
    let error = decode_request(ApiKey::Fetch, 12, topics(REQUEST_TAGGED_FIELDS_MAX + 1)).err();
    let (api_key, version) = (ApiKey::Fetch, 12);
    let expected = RequestError::Malformed { api_key, version, error: WalkError::TooManyTaggedFields };
    assert_eq!(error, Some(expected));
}

#[test]
fn a_tagged_field_must_fill_the_size_it_announces() {
    let body = encode(&Request::Fetch(FetchRequest::default().with_cluster_id(Some(text("ab")))), 12);
    let (head, tag) = body.split_at(body.len() - 6);
    assert_eq!(tag, [1, 0, 3, 3, b'a', b'b']);
    let longer = Bytes::from([head, &[1, 0, 4, 3, b'a', b'b', 0]].concat());
    let error = decode_request(ApiKey::Fetch, 12, longer).err().unwrap();
    assert!(error.to_string().contains("cluster_id: the tagged value takes 3 bytes, 4"), "{error}");
}

#[test]
fn null_names_are_refused_where_kafka_refuses_them() {
    let body = Bytes::from_static(&[0, 0, 0, 1, 0xff, 0xff]);
    let error = decode_request(ApiKey::Metadata, 1, body).err().unwrap();
    assert!(error.to_string().contains("field name: the value at byte 4 may not be null"), "{error}");
}

#[test]
fn produce_and_unserved_versions_are_not_decoded() {
    for (api_key, version) in [(ApiKey::Produce, 9), (ApiKey::Fetch, 13), (ApiKey::ApiVersions, 5)] {
        let error = decode_request(api_key, version, Bytes::new()).err();
        assert_eq!(error, Some(RequestError::Unserved { api_key, version }));
    }
}

/// Writes bodies that fit a description; entropy decides lengths, nulls and values.
struct Bodies {
    version: i16,
    encoding: Encoding,
    entropy: Vec<u8>,
    at: usize,
}

impl Bodies {
    fn byte(&mut self) -> u8 {
        self.at += 1;
        self.entropy.get(self.at - 1).copied().unwrap_or_default()
    }

    fn structure(&mut self, structure: &Structure, out: &mut Vec<u8>) {
        let version = self.version;
        for field in structure.fields.iter().filter(|field| field.is_in(version)) {
            self.field(field, out);
        }
        if self.encoding == Encoding::Classic {
            return;
        }
        let known = structure.tagged.iter().find(|(_, field)| field.is_in(version));
        let known = known.filter(|_| self.byte() % 2 == 1).map(|(tag, field)| {
            let mut value = Vec::new();
            self.field(field, &mut value);
            // The library leaves out a null again, which would change the size.
            (*tag, if value == [0] { vec![1] } else { value })
        });
        let unknown = (self.byte() % 4 == 1).then(|| (99, vec![7; usize::from(self.byte() % 4)]));
        let tagged: Vec<(u32, Vec<u8>)> = known.into_iter().chain(unknown).collect();
        Writer::new(out, self.encoding).uvarint(tagged.len() as u32);
        for (tag, value) in tagged {
            let mut writer = Writer::new(out, self.encoding);
            writer.uvarint(tag);
            writer.uvarint(value.len() as u32);
            out.extend(value);
        }
    }

    fn field(&mut self, field: &Field, out: &mut Vec<u8>) {
        let null = field.is_nullable(self.version) && self.byte() % 4 == 1;
        match field.kind {
            Kind::Str if null => Writer::new(out, self.encoding).nullable_str(None),
            Kind::Array(_) if null => Writer::new(out, self.encoding).length(None),
            Kind::Structure(_) if null => out.push(0xff),
            Kind::Structure(structure) if field.is_nullable(self.version) => {
                out.push(1);
                self.structure(structure, out);
            }
            kind => self.value(kind, out),
        }
    }

    fn value(&mut self, kind: Kind, out: &mut Vec<u8>) {
        match kind {
            // Booleans are written back as 0 or 1, which keeps the size.
            Kind::Fixed(size) => (0..size).for_each(|_| out.push(self.byte())),
            Kind::Str => {
                let size = usize::from(self.byte() % 5);
                Writer::new(out, self.encoding).str(&"abcde"[..size]);
            }
            Kind::Bytes => {
                let size = usize::from(self.byte() % 5);
                Writer::new(out, self.encoding).length(Some(size));
                (0..size).for_each(|_| out.push(self.byte()));
            }
            Kind::Array(element) => {
                let count = usize::from(self.byte() % 4);
                Writer::new(out, self.encoding).length(Some(count));
                (0..count).for_each(|_| self.value(*element, out));
            }
            Kind::Structure(structure) => self.structure(structure, out),
        }
    }
}

/// Every API and version that the library decodes for us.
fn decodable() -> Vec<(ApiKey, i16)> {
    let keys = ApiKey::ALL.iter().filter(|key| **key != ApiKey::Produce);
    keys.flat_map(|key| (key.api().served_min..=key.api().max).map(|version| (*key, version))).collect()
}

fn sample(api_key: ApiKey, version: i16) -> [Bytes; 2] {
    samples(LibraryKey::try_from(api_key.to_wire()).unwrap(), version, &Bytes::new())
}

fn text<T: From<StrBytes>>(value: &'static str) -> T {
    StrBytes::from_static_str(value).into()
}

fn encode(request: &Request, version: i16) -> Bytes {
    let mut body = Vec::new();
    let encoded = match request {
        Request::Fetch(request) => request.encode(&mut body, version),
        Request::ListOffsets(request) => request.encode(&mut body, version),
        Request::Metadata(request) => request.encode(&mut body, version),
        Request::OffsetCommit(request) => request.encode(&mut body, version),
        Request::OffsetFetch(request) => request.encode(&mut body, version),
        Request::FindCoordinator(request) => request.encode(&mut body, version),
        Request::JoinGroup(request) => request.encode(&mut body, version),
        Request::Heartbeat(request) => request.encode(&mut body, version),
        Request::LeaveGroup(request) => request.encode(&mut body, version),
        Request::SyncGroup(request) => request.encode(&mut body, version),
        Request::DescribeGroups(request) => request.encode(&mut body, version),
        Request::ListGroups(request) => request.encode(&mut body, version),
        Request::ApiVersions(request) => request.encode(&mut body, version),
        Request::CreateTopics(request) => request.encode(&mut body, version),
        Request::DeleteTopics(request) => request.encode(&mut body, version),
        Request::DeleteRecords(request) => request.encode(&mut body, version),
        Request::InitProducerId(request) => request.encode(&mut body, version),
        Request::OffsetForLeaderEpoch(request) => request.encode(&mut body, version),
        Request::WriteTxnMarkers(request) => request.encode(&mut body, version),
        Request::DescribeConfigs(request) => request.encode(&mut body, version),
        Request::AlterConfigs(request) => request.encode(&mut body, version),
        Request::DescribeLogDirs(request) => request.encode(&mut body, version),
        Request::CreatePartitions(request) => request.encode(&mut body, version),
        Request::DeleteGroups(request) => request.encode(&mut body, version),
        Request::ElectLeaders(request) => request.encode(&mut body, version),
        Request::IncrementalAlterConfigs(request) => request.encode(&mut body, version),
        Request::AlterPartitionReassignments(request) => request.encode(&mut body, version),
        Request::ListPartitionReassignments(request) => request.encode(&mut body, version),
        Request::OffsetDelete(request) => request.encode(&mut body, version),
        Request::DescribeClientQuotas(request) => request.encode(&mut body, version),
        Request::AlterClientQuotas(request) => request.encode(&mut body, version),
        Request::DescribeQuorum(request) => request.encode(&mut body, version),
        Request::AddRaftVoter(request) => request.encode(&mut body, version),
        Request::RemoveRaftVoter(request) => request.encode(&mut body, version),
        Request::UnregisterBroker(request) => request.encode(&mut body, version),
        Request::DescribeCluster(request) => request.encode(&mut body, version),
        Request::DescribeProducers(request) => request.encode(&mut body, version),
        Request::ConsumerGroupHeartbeat(request) => request.encode(&mut body, version),
        Request::ConsumerGroupDescribe(request) => request.encode(&mut body, version),
        Request::GetTelemetrySubscriptions(request) => request.encode(&mut body, version),
        Request::PushTelemetry(request) => request.encode(&mut body, version),
        Request::ListConfigResources(request) => request.encode(&mut body, version),
        Request::DescribeTopicPartitions(request) => request.encode(&mut body, version),
        Request::AddPartitionsToTxn(request) => request.encode(&mut body, version),
        Request::AddOffsetsToTxn(request) => request.encode(&mut body, version),
        Request::EndTxn(request) => request.encode(&mut body, version),
        Request::TxnOffsetCommit(request) => request.encode(&mut body, version),
        Request::DescribeTransactions(request) => request.encode(&mut body, version),
        Request::ListTransactions(request) => request.encode(&mut body, version),
    };
    encoded.unwrap();
    body.into()
}
