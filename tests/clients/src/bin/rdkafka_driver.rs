//! The `rdkafka` crate in a process of its own: see `odradek_client_tests::serve_rdkafka`.

fn main() {
    let bootstrap = std::env::args().nth(1).expect("where the broker listens is the only argument");
    odradek_client_tests::serve_rdkafka(&bootstrap);
}
