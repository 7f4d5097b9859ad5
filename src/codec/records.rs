//! The records inside an uncompressed batch payload, format v2 (KIP-98): a borrowing iterator and an
//! encoder.
//!
//! | field | encoding |
//! |---|---|
//! | length: bytes after this field | varint |
//! | attributes, unused | i8 |
//! | timestamp delta, ms from the batch's base timestamp | varlong |
//! | offset delta from the batch's base offset | varint |
//! | key length, -1: null; key | varint, bytes |
//! | value length, -1: null; value | varint, bytes |
//! | header count | varint |
//! | per header: key length; key; value length, -1: null; value | varint, UTF-8, varint, bytes |
//!
//! Varints are zigzag, base 128, least significant group first. Whether offset deltas are dense and
//! timestamps in range is the caller's to judge. Source: Kafka `DefaultRecord`.

/// One record in somebody else's bytes. Its headers were walked once and are well formed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordView<'a> {
    pub timestamp_delta: i64,
    pub offset_delta: i32,
    pub key: Option<&'a [u8]>,
    pub value: Option<&'a [u8]>,
    header_count: u32,
    header_bytes: &'a [u8],
}

impl<'a> RecordView<'a> {
    pub fn headers(&self) -> Headers<'a> {
        Headers { remaining: self.header_count, bytes: self.header_bytes }
    }

    pub fn header_count(&self) -> u32 {
        self.header_count
    }
}

/// A record's header; the key is UTF-8 by convention and is not checked for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header<'a> {
    pub key: &'a [u8],
    pub value: Option<&'a [u8]>,
}

/// Why a payload does not hold the records that its batch promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    #[error("the payload ends inside a record")]
    Truncated,
    #[error("a variable-length integer does not fit its type")]
    Varint,
    #[error("a length field says {length}")]
    Length { length: i64 },
    #[error("a record leaves {unread} bytes of its length unused")]
    RecordSize { unread: usize },
    #[error("{unread} bytes follow the last record")]
    TrailingBytes { unread: usize },
}

/// Iterates over exactly `record_count` records; ends after the first error.
#[derive(Clone, Debug)]
pub struct Records<'a> {
    bytes: &'a [u8],
    remaining: u32,
    failed: bool,
}

impl<'a> Records<'a> {
    /// `payload`: uncompressed; `record_count`: what the batch header says.
    pub fn new(payload: &'a [u8], record_count: u32) -> Records<'a> {
        Records { bytes: payload, remaining: record_count, failed: false }
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<RecordView<'a>, RecordError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        if self.remaining == 0 {
            if self.bytes.is_empty() {
                return None;
            }
            self.failed = true;
            return Some(Err(RecordError::TrailingBytes { unread: self.bytes.len() }));
        }
        self.remaining -= 1;
        let record = take_record(&mut self.bytes);
        self.failed = record.is_err();
        Some(record)
    }
}

/// Iterates over the headers of one record.
#[derive(Clone, Debug)]
pub struct Headers<'a> {
    remaining: u32,
    bytes: &'a [u8],
}

impl<'a> Iterator for Headers<'a> {
    type Item = Header<'a>;

    fn next(&mut self) -> Option<Header<'a>> {
        self.remaining = self.remaining.checked_sub(1)?;
        take_header(&mut self.bytes).ok()
    }
}

/// What a new record says of itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct NewRecord<'a> {
    pub timestamp_delta: i64,
    pub offset_delta: i32,
    pub key: Option<&'a [u8]>,
    pub value: Option<&'a [u8]>,
    pub headers: &'a [Header<'a>],
}

/// Appends a record to an uncompressed payload.
pub fn write_record(record: &NewRecord<'_>, out: &mut Vec<u8>) {
    let size = body_size(record);
    out.reserve(size + 5);
    write_varint(size as i64, out);
    let start = out.len();
    out.push(0);
    write_varint(record.timestamp_delta, out);
    write_varint(record.offset_delta as i64, out);
    write_bytes(record.key, out);
    write_bytes(record.value, out);
    write_varint(record.headers.len() as i64, out);
    for header in record.headers {
        write_bytes(Some(header.key), out);
        write_bytes(header.value, out);
    }
    assert_eq!(out.len() - start, size, "the length written first is the length of what followed");
}

/// Bytes that [`write_record`] will append.
pub fn record_size(record: &NewRecord<'_>) -> usize {
    let body = body_size(record);
    varint_size(body as i64) + body
}

fn body_size(record: &NewRecord<'_>) -> usize {
    let headers: usize = record.headers.iter().map(|h| bytes_size(Some(h.key)) + bytes_size(h.value)).sum();
    1 + varint_size(record.timestamp_delta)
        + varint_size(record.offset_delta as i64)
        + bytes_size(record.key)
        + bytes_size(record.value)
        + varint_size(record.headers.len() as i64)
        + headers
}

fn bytes_size(bytes: Option<&[u8]>) -> usize {
    match bytes {
        Some(bytes) => varint_size(bytes.len() as i64) + bytes.len(),
        None => varint_size(-1),
    }
}

fn write_bytes(bytes: Option<&[u8]>, out: &mut Vec<u8>) {
    match bytes {
        Some(bytes) => {
            write_varint(bytes.len() as i64, out);
            out.extend_from_slice(bytes);
        }
        None => write_varint(-1, out),
    }
}

/// Bytes of `value` as a zigzag varint; the same for Kafka's 32-bit and 64-bit forms.
pub fn varint_size(value: i64) -> usize {
    let bits = 64 - (zigzag(value) | 1).leading_zeros() as usize;
    bits.div_ceil(7)
}

/// Appends `value` as a zigzag varint.
pub fn write_varint(value: i64, out: &mut Vec<u8>) {
    let mut rest = zigzag(value);
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

/// Cost per record: the varints; keys and values are not touched.
fn take_record<'a>(bytes: &mut &'a [u8]) -> Result<RecordView<'a>, RecordError> {
    let size = take_length(bytes)?;
    let (mut body, rest) = bytes.split_at_checked(size).ok_or(RecordError::Truncated)?;
    *bytes = rest;
    let (_attributes, after) = body.split_first().ok_or(RecordError::Truncated)?;
    body = after;
    let timestamp_delta = take_varlong(&mut body)?;
    let offset_delta = take_varint(&mut body)?;
    let key = take_nullable(&mut body)?;
    let value = take_nullable(&mut body)?;
    let header_count = take_length(&mut body)? as u32;
    let header_bytes = body;
    // The count is not believed: each header takes at least two bytes, so the walk is bounded.
    for _ in 0..header_count {
        take_header(&mut body)?;
    }
    if !body.is_empty() {
        return Err(RecordError::RecordSize { unread: body.len() });
    }
    Ok(RecordView { timestamp_delta, offset_delta, key, value, header_count, header_bytes })
}

fn take_header<'a>(bytes: &mut &'a [u8]) -> Result<Header<'a>, RecordError> {
    let key = take_nullable(bytes)?.ok_or(RecordError::Length { length: -1 })?;
    let value = take_nullable(bytes)?;
    Ok(Header { key, value })
}

/// A length-prefixed field; -1 is null, anything below is an error.
fn take_nullable<'a>(bytes: &mut &'a [u8]) -> Result<Option<&'a [u8]>, RecordError> {
    let length = take_varint(bytes)?;
    if length == -1 {
        return Ok(None);
    }
    let length = usize::try_from(length).map_err(|_| RecordError::Length { length: length as i64 })?;
    let (field, rest) = bytes.split_at_checked(length).ok_or(RecordError::Truncated)?;
    *bytes = rest;
    Ok(Some(field))
}

fn take_length(bytes: &mut &[u8]) -> Result<usize, RecordError> {
    let length = take_varint(bytes)?;
    usize::try_from(length).map_err(|_| RecordError::Length { length: length as i64 })
}

fn take_varint(bytes: &mut &[u8]) -> Result<i32, RecordError> {
    i32::try_from(take_varlong(bytes)?).map_err(|_| RecordError::Varint)
}

fn take_varlong(bytes: &mut &[u8]) -> Result<i64, RecordError> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first().ok_or(RecordError::Truncated)?;
        *bytes = rest;
        // The tenth byte has room for one bit.
        if shift == 63 && byte > 1 {
            return Err(RecordError::Varint);
        }
        value |= ((byte & 0x7f) as u64) << shift;
        if byte < 0x80 {
            return Ok((value >> 1) as i64 ^ -((value & 1) as i64));
        }
    }
    Err(RecordError::Varint)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn layout_is_kafkas() {
        let headers = [Header { key: b"h", value: None }];
        let record = NewRecord {
            timestamp_delta: -1,
            offset_delta: 64,
            key: None,
            value: Some(b"ab"),
            headers: &headers,
        };
        let mut out = Vec::new();
        write_record(&record, &mut out);
        // Length 12; attributes; -1; 64 in two bytes; null key; 2, "ab"; one header: 1, "h", null.
        assert_eq!(out, [24, 0, 1, 0x80, 1, 1, 4, b'a', b'b', 2, 2, b'h', 1]);
        assert_eq!(out.len(), record_size(&record));
    }

    #[test]
    fn count_and_payload_must_agree() {
        let mut out = Vec::new();
        write_record(&NewRecord::default(), &mut out);
        write_record(&NewRecord::default(), &mut out);
        assert_eq!(Records::new(&out, 2).filter(Result::is_ok).count(), 2);
        assert_eq!(Records::new(&out, 3).last(), Some(Err(RecordError::Truncated)));
        let unread = out.len() / 2;
        assert_eq!(Records::new(&out, 1).last(), Some(Err(RecordError::TrailingBytes { unread })));
    }

    #[test]
    fn lengths_that_disagree_are_refused() {
        // Record length 8, one byte more than its fields need.
        assert_eq!(only(&[16, 0, 0, 0, 1, 1, 0, 0, 0]), Err(RecordError::RecordSize { unread: 2 }));
        // Key length -2.
        assert_eq!(only(&[12, 0, 0, 0, 3, 1, 0]), Err(RecordError::Length { length: -2 }));
        // Negative record length, negative header count.
        assert_eq!(only(&[1]), Err(RecordError::Length { length: -1 }));
        assert_eq!(only(&[12, 0, 0, 0, 1, 1, 1]), Err(RecordError::Length { length: -1 }));
        // Null header key.
        assert_eq!(only(&[16, 0, 0, 0, 1, 1, 2, 1, 1]), Err(RecordError::Length { length: -1 }));
        // Eleven groups; a length of more than 31 bits.
        assert_eq!(only(&[0xff; 11]), Err(RecordError::Varint));
        assert_eq!(only(&[0xfe, 0xff, 0xff, 0xff, 0x1f]), Err(RecordError::Varint));
    }

    #[test]
    fn a_huge_header_count_costs_nothing() {
        let mut body = vec![0, 0, 0, 1, 1];
        write_varint(i32::MAX as i64, &mut body);
        let mut bytes = Vec::new();
        write_varint(body.len() as i64, &mut bytes);
        bytes.extend(body);
        assert_eq!(only(&bytes), Err(RecordError::Truncated));
    }

    proptest! {
        #[test]
        fn records_come_back_as_written(records in proptest::collection::vec(any_record(), 0..20)) {
            let mut payload = Vec::new();
            for record in &records {
                let headers = record.headers();
                let new = record.as_new(&headers);
                let before = payload.len();
                write_record(&new, &mut payload);
                prop_assert_eq!(payload.len() - before, record_size(&new));
            }
            let read: Vec<Owned> =
                Records::new(&payload, records.len() as u32).map(|record| Owned::from(record.unwrap())).collect();
            prop_assert_eq!(read, records);
        }

        #[test]
        fn garbage_ends_with_one_error(bytes in proptest::collection::vec(any::<u8>(), 0..200), count in 0..9u32) {
            let mut errors = 0;
            for record in Records::new(&bytes, count) {
                match record {
                    Ok(record) => prop_assert_eq!(record.headers().count(), record.header_count() as usize),
                    Err(_) => errors += 1,
                }
            }
            prop_assert!(errors <= 1);
        }

        #[test]
        fn varints_return_and_have_the_size_they_say(value in any::<i64>(), shift in 0..64u32) {
            let value = value >> shift;
            let mut out = Vec::new();
            write_varint(value, &mut out);
            prop_assert_eq!(out.len(), varint_size(value));
            prop_assert_eq!(take_varlong(&mut &out[..]), Ok(value));
            prop_assert_eq!(take_varint(&mut &out[..]).ok(), i32::try_from(value).ok());
        }
    }

    fn only(bytes: &[u8]) -> Result<RecordView<'_>, RecordError> {
        Records::new(bytes, 1).next().expect("one record or one error")
    }

    type OwnedHeader = (Vec<u8>, Option<Vec<u8>>);

    #[derive(Clone, Debug, PartialEq)]
    struct Owned {
        timestamp_delta: i64,
        offset_delta: i32,
        key: Option<Vec<u8>>,
        value: Option<Vec<u8>>,
        headers: Vec<OwnedHeader>,
    }

    impl Owned {
        fn headers(&self) -> Vec<Header<'_>> {
            self.headers.iter().map(|(key, value)| Header { key, value: value.as_deref() }).collect()
        }

        fn as_new<'a>(&'a self, headers: &'a [Header<'a>]) -> NewRecord<'a> {
            NewRecord {
                timestamp_delta: self.timestamp_delta,
                offset_delta: self.offset_delta,
                key: self.key.as_deref(),
                value: self.value.as_deref(),
                headers,
            }
        }
    }

    impl From<RecordView<'_>> for Owned {
        fn from(record: RecordView<'_>) -> Owned {
            Owned {
                timestamp_delta: record.timestamp_delta,
                offset_delta: record.offset_delta,
                key: record.key.map(<[u8]>::to_vec),
                value: record.value.map(<[u8]>::to_vec),
                headers: record.headers().map(|h| (h.key.to_vec(), h.value.map(<[u8]>::to_vec))).collect(),
            }
        }
    }

    fn any_bytes() -> impl Strategy<Value = Vec<u8>> {
        proptest::collection::vec(any::<u8>(), 0..200)
    }

    prop_compose! {
        fn any_record()(
            timestamp_delta in any::<i64>(),
            offset_delta in any::<i32>(),
            key in proptest::option::of(any_bytes()),
            value in proptest::option::of(any_bytes()),
            headers in proptest::collection::vec((any_bytes(), proptest::option::of(any_bytes())), 0..4),
        ) -> Owned {
            Owned { timestamp_delta, offset_delta, key, value, headers }
        }
    }
}
