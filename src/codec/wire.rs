//! Kafka's primitive types: a bounds-checked reader and a writer.
//!
//! | type | classic | compact (flexible versions, KIP-482) |
//! |---|---|---|
//! | integer | big-endian | the same |
//! | string | i16 length, -1: null | uvarint of length + 1, 0: null |
//! | bytes, records | i32 length, -1: null | uvarint of length + 1, 0: null |
//! | array | i32 count, -1: null | uvarint of count + 1, 0: null |
//! | end of a structure | nothing | uvarint count of tagged fields: uvarint tag, uvarint size, value |
//!
//! The reader borrows, never allocates and never panics; a position in an error counts from the
//! first byte given to the reader. Stricter than it must be in one place: a uvarint may not
//! overflow 32 bits, while Kafka ignores the bits on top.

/// Which of the two encodings a structure uses; decided by API and version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    Classic,
    Compact,
}

/// Bytes of a string, at most, in both encodings (Kafka refuses longer compact ones too). What was
/// read in one version can therefore always be written in another.
pub const STRING_SIZE_MAX: usize = i16::MAX as usize;

/// Why bytes are not the value they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    #[error("{needed} bytes needed at byte {at}, {available} are there")]
    Truncated { at: usize, needed: usize, available: usize },
    #[error("the length at byte {at} is {length}")]
    Length { at: usize, length: i64 },
    #[error("{count} elements announced at byte {at}, {available} bytes are there")]
    Count { at: usize, count: usize, available: usize },
    #[error("the value at byte {at} may not be null")]
    Null { at: usize },
    #[error("the string at byte {at} is not UTF-8")]
    Utf8 { at: usize },
    #[error("the variable-length integer at byte {at} exceeds 32 bits")]
    Varint { at: usize },
}

/// Takes values off the front of somebody else's bytes.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    encoding: Encoding,
}

impl<'a> Reader<'a> {
    pub const fn new(bytes: &'a [u8], encoding: Encoding) -> Reader<'a> {
        Reader { bytes, at: 0, encoding }
    }

    /// The same place, read on in another encoding.
    pub const fn with_encoding(self, encoding: Encoding) -> Reader<'a> {
        Reader { encoding, ..self }
    }

    /// Bytes read so far.
    pub const fn at(&self) -> usize {
        self.at
    }

    pub const fn encoding(&self) -> Encoding {
        self.encoding
    }

    pub const fn remaining(&self) -> usize {
        self.bytes.len() - self.at
    }

    #[inline]
    pub fn take(&mut self, size: usize) -> Result<&'a [u8], WireError> {
        let available = self.remaining();
        if size > available {
            return Err(WireError::Truncated { at: self.at, needed: size, available });
        }
        let taken = &self.bytes[self.at..self.at + size];
        self.at += size;
        Ok(taken)
    }

    #[inline]
    fn array<const SIZE: usize>(&mut self) -> Result<[u8; SIZE], WireError> {
        let mut value = [0; SIZE];
        value.copy_from_slice(self.take(SIZE)?);
        Ok(value)
    }

    pub fn i8(&mut self) -> Result<i8, WireError> {
        Ok(i8::from_be_bytes(self.array()?))
    }

    pub fn i16(&mut self) -> Result<i16, WireError> {
        Ok(i16::from_be_bytes(self.array()?))
    }

    pub fn i32(&mut self) -> Result<i32, WireError> {
        Ok(i32::from_be_bytes(self.array()?))
    }

    pub fn i64(&mut self) -> Result<i64, WireError> {
        Ok(i64::from_be_bytes(self.array()?))
    }

    /// An unsigned integer of one to five bytes, seven bits each, low bits first.
    #[inline]
    pub fn uvarint(&mut self) -> Result<u32, WireError> {
        let start = self.at;
        let mut value = 0u64;
        for shift in [0, 7, 14, 21, 28] {
            let [byte] = self.array()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return u32::try_from(value).map_err(|_| WireError::Varint { at: start });
            }
        }
        Err(WireError::Varint { at: start })
    }

    pub fn str(&mut self) -> Result<&'a str, WireError> {
        let at = self.at;
        self.nullable_str()?.ok_or(WireError::Null { at })
    }

    pub fn nullable_str(&mut self) -> Result<Option<&'a str>, WireError> {
        let at = self.at;
        let size = match self.encoding {
            Encoding::Classic => length(at, i64::from(self.i16()?))?,
            Encoding::Compact => length(at, i64::from(self.uvarint()?) - 1)?,
        };
        let Some(size) = size else { return Ok(None) };
        if size > STRING_SIZE_MAX {
            return Err(WireError::Length { at, length: size as i64 });
        }
        let value = std::str::from_utf8(self.take(size)?);
        value.map(Some).map_err(|_| WireError::Utf8 { at })
    }

    pub fn nullable_bytes(&mut self) -> Result<Option<&'a [u8]>, WireError> {
        match self.length()? {
            Some(size) => self.take(size).map(Some),
            None => Ok(None),
        }
    }

    pub fn bytes(&mut self) -> Result<&'a [u8], WireError> {
        let at = self.at;
        self.nullable_bytes()?.ok_or(WireError::Null { at })
    }

    /// The count of an array whose elements take at least `element_size_min` bytes each; more than
    /// fit the rest of the bytes are refused, so a caller may reserve for what it gets.
    pub fn nullable_count(&mut self, element_size_min: usize) -> Result<Option<usize>, WireError> {
        let at = self.at;
        let Some(count) = self.length()? else { return Ok(None) };
        let available = self.remaining();
        if count.saturating_mul(element_size_min) > available {
            return Err(WireError::Count { at, count, available });
        }
        Ok(Some(count))
    }

    pub fn count(&mut self, element_size_min: usize) -> Result<usize, WireError> {
        let at = self.at;
        self.nullable_count(element_size_min)?.ok_or(WireError::Null { at })
    }

    /// Passes over the tagged fields at the end of a structure; nothing in the classic encoding.
    #[inline]
    pub fn skip_tagged_fields(&mut self) -> Result<(), WireError> {
        if self.encoding == Encoding::Classic {
            return Ok(());
        }
        // Any count is fine: each field takes at least two bytes, so the bytes run out first.
        for _ in 0..self.uvarint()? {
            let _tag = self.uvarint()?;
            let size = self.uvarint()?;
            self.take(size as usize)?;
        }
        Ok(())
    }

    fn length(&mut self) -> Result<Option<usize>, WireError> {
        let at = self.at;
        match self.encoding {
            Encoding::Classic => length(at, i64::from(self.i32()?)),
            Encoding::Compact => length(at, i64::from(self.uvarint()?) - 1),
        }
    }
}

fn length(at: usize, length: i64) -> Result<Option<usize>, WireError> {
    match length {
        -1 => Ok(None),
        0.. => Ok(Some(length as usize)),
        _ => Err(WireError::Length { at, length }),
    }
}

/// Appends values to a buffer.
#[derive(Debug)]
pub struct Writer<'a> {
    out: &'a mut Vec<u8>,
    encoding: Encoding,
}

impl<'a> Writer<'a> {
    pub const fn new(out: &'a mut Vec<u8>, encoding: Encoding) -> Writer<'a> {
        Writer { out, encoding }
    }

    pub fn i8(&mut self, value: i8) {
        self.out.extend_from_slice(&value.to_be_bytes());
    }

    pub fn i16(&mut self, value: i16) {
        self.out.extend_from_slice(&value.to_be_bytes());
    }

    pub fn i32(&mut self, value: i32) {
        self.out.extend_from_slice(&value.to_be_bytes());
    }

    pub fn i64(&mut self, value: i64) {
        self.out.extend_from_slice(&value.to_be_bytes());
    }

    pub fn uvarint(&mut self, mut value: u32) {
        while value >= 0x80 {
            self.out.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.out.push(value as u8);
    }

    /// Asserts [`STRING_SIZE_MAX`]: strings are names that were read, or our own, cut to size by
    /// [`clip`].
    pub fn nullable_str(&mut self, value: Option<&str>) {
        let size = value.map_or(-1, |value| value.len() as i64);
        assert!(size <= STRING_SIZE_MAX as i64, "a string of {size} bytes cannot be sent");
        match self.encoding {
            Encoding::Classic => self.i16(size as i16),
            Encoding::Compact => self.uvarint((size + 1) as u32),
        }
        self.out.extend_from_slice(value.unwrap_or_default().as_bytes());
    }

    pub fn str(&mut self, value: &str) {
        self.nullable_str(Some(value));
    }

    /// The length of bytes or records, or the count of an array; what it announces follows.
    pub fn length(&mut self, length: Option<usize>) {
        let length = length.map_or(-1, |length| length as i64);
        assert!(length <= i64::from(i32::MAX), "a length of {length} cannot be sent");
        match self.encoding {
            Encoding::Classic => self.i32(length as i32),
            Encoding::Compact => self.uvarint((length + 1) as u32),
        }
    }

    /// Ends a structure that has no tagged fields to send.
    pub fn no_tagged_fields(&mut self) {
        if self.encoding == Encoding::Compact {
            self.out.push(0);
        }
    }
}

/// Bytes that [`Writer::uvarint`] writes.
pub const fn uvarint_size(value: u32) -> usize {
    match value {
        0..0x80 => 1,
        0x80..0x4000 => 2,
        0x4000..0x20_0000 => 3,
        0x20_0000..0x1000_0000 => 4,
        0x1000_0000.. => 5,
    }
}

/// The longest start of a message that fits a string on the wire.
pub fn clip(message: &str) -> &str {
    &message[..message.floor_char_boundary(STRING_SIZE_MAX)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn compact_string_may_not_be_longer_than_a_classic_one() {
        let mut bytes = Vec::new();
        Writer::new(&mut bytes, Encoding::Compact).uvarint(STRING_SIZE_MAX as u32 + 2);
        bytes.resize(bytes.len() + STRING_SIZE_MAX + 1, b'a');
        let error = Reader::new(&bytes, Encoding::Compact).str();
        assert_eq!(error, Err(WireError::Length { at: 0, length: STRING_SIZE_MAX as i64 + 1 }));
    }

    #[test]
    fn a_count_that_cannot_fit_is_refused_before_anything_is_reserved() {
        let bytes = i32::MAX.to_be_bytes();
        let error = Reader::new(&bytes, Encoding::Classic).count(4);
        assert_eq!(error, Err(WireError::Count { at: 0, count: i32::MAX as usize, available: 0 }));
    }

    #[test]
    fn negative_lengths_other_than_null_are_refused() {
        let bytes = (-2i16).to_be_bytes();
        let error = Reader::new(&bytes, Encoding::Classic).nullable_str();
        assert_eq!(error, Err(WireError::Length { at: 0, length: -2 }));
        let bytes = (-1i16).to_be_bytes();
        assert_eq!(Reader::new(&bytes, Encoding::Classic).nullable_str(), Ok(None));
        assert_eq!(Reader::new(&bytes, Encoding::Classic).str(), Err(WireError::Null { at: 0 }));
    }

    #[test]
    fn a_uvarint_that_overflows_is_refused() {
        let error = Reader::new(&[0xff, 0xff, 0xff, 0xff, 0x1f], Encoding::Compact).uvarint();
        assert_eq!(error, Err(WireError::Varint { at: 0 }));
        let error = Reader::new(&[0x80, 0x80, 0x80, 0x80, 0x80, 0x00], Encoding::Compact).uvarint();
        assert_eq!(error, Err(WireError::Varint { at: 0 }));
    }

    #[test]
    fn clip_keeps_characters_whole() {
        let long = "ä".repeat(STRING_SIZE_MAX);
        assert_eq!(clip(&long).len(), STRING_SIZE_MAX - 1);
        assert_eq!(clip("short"), "short");
    }

    proptest! {
        #[test]
        fn written_values_are_read_back(
            number: u32, text in proptest::option::of(".{0,40}"), length in proptest::option::of(0usize..9)
        ) {
            for encoding in [Encoding::Classic, Encoding::Compact] {
                let mut bytes = Vec::new();
                let mut writer = Writer::new(&mut bytes, encoding);
                writer.uvarint(number);
                writer.nullable_str(text.as_deref());
                writer.length(length);
                writer.no_tagged_fields();
                let mut reader = Reader::new(&bytes, encoding);
                prop_assert_eq!(reader.uvarint(), Ok(number));
                prop_assert_eq!(reader.at(), uvarint_size(number));
                prop_assert_eq!(reader.nullable_str(), Ok(text.as_deref()));
                prop_assert_eq!(reader.nullable_count(0), Ok(length));
                prop_assert_eq!(reader.skip_tagged_fields(), Ok(()));
                prop_assert_eq!(reader.remaining(), 0);
            }
        }
    }
}
