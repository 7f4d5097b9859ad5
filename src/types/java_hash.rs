//! Which partition of an internal topic a name belongs to: clients and tools compute it too.

/// The partition of a group or a transactional id, of so many (Kafka `GroupCoordinatorService.partitionFor`,
/// `TransactionStateManager.partitionFor`).
pub fn partition_of(name: &str, partition_count: usize) -> usize {
    assert!(partition_count > 0, "a topic has partitions");
    let hash = java_hash(name) as i32;
    // Kafka's `Utils.abs`: of the one number that has no opposite it is zero.
    let distance = if hash == i32::MIN { 0 } else { hash.unsigned_abs() };
    distance as usize % partition_count
}

/// `java.lang.String.hashCode`: over UTF-16.
pub fn java_hash(text: &str) -> u32 {
    text.encode_utf16().fold(0u32, |hash, unit| hash.wrapping_mul(31).wrapping_add(u32::from(unit)))
}
