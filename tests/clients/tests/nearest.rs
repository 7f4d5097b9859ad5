//! Reads from followers: see `odradek_client_tests::consumers_read_in_their_rack`.

use odradek_client_tests::consumers_read_in_their_rack;

#[test]
fn librdkafka_reads_in_its_rack() {
    consumers_read_in_their_rack();
}
