//! Reading answers in place: a cursor over one frame for the two responses that are large or many
//! (Produce, Fetch). Everything else is decoded by the protocol library.
//!
//! Flexible versions (KIP-482) write lengths as unsigned varints, plus one, and end each structure
//! with tagged fields; older ones write fixed-size lengths and have no tags.

/// The answer ends early or a length in it is impossible.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the broker's answer is cut short or malformed")]
pub struct Malformed;

/// Lives: while one frame is parsed.
pub struct Reader<'a> {
    bytes: &'a [u8],
    flexible: bool,
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8], flexible: bool) -> Reader<'a> {
        Reader { bytes, flexible }
    }

    pub fn i16(&mut self) -> Result<i16, Malformed> {
        self.array().map(i16::from_be_bytes)
    }

    pub fn i32(&mut self) -> Result<i32, Malformed> {
        self.array().map(i32::from_be_bytes)
    }

    pub fn i64(&mut self) -> Result<i64, Malformed> {
        self.array().map(i64::from_be_bytes)
    }

    /// Elements of an array that follows; null counts as none.
    pub fn array_length(&mut self) -> Result<usize, Malformed> {
        let length = if self.flexible { self.unsigned()? as i64 - 1 } else { self.i32()? as i64 };
        // Each element takes at least a byte, so that no loop runs longer than the frame.
        match usize::try_from(length.max(0)) {
            Ok(length) if length <= self.bytes.len() => Ok(length),
            Ok(_) | Err(_) => Err(Malformed),
        }
    }

    /// A string, nullable or not; null is empty.
    pub fn string(&mut self) -> Result<&'a [u8], Malformed> {
        let length = if self.flexible { self.unsigned()? as i64 - 1 } else { self.i16()? as i64 };
        self.take(length.max(0) as usize)
    }

    /// A byte field, nullable or not; null is empty.
    pub fn bytes(&mut self) -> Result<&'a [u8], Malformed> {
        let length = if self.flexible { self.unsigned()? as i64 - 1 } else { self.i32()? as i64 };
        self.take(length.max(0) as usize)
    }

    /// Passes over the tagged fields that end a structure, if this version has them.
    pub fn skip_tags(&mut self) -> Result<(), Malformed> {
        if !self.flexible {
            return Ok(());
        }
        let count = self.unsigned()?;
        for _ in 0..count {
            self.unsigned()?;
            let size = self.unsigned()?;
            self.take(size as usize)?;
        }
        Ok(())
    }

    fn take(&mut self, size: usize) -> Result<&'a [u8], Malformed> {
        let (field, rest) = self.bytes.split_at_checked(size).ok_or(Malformed)?;
        self.bytes = rest;
        Ok(field)
    }

    fn array<const SIZE: usize>(&mut self) -> Result<[u8; SIZE], Malformed> {
        let (field, rest) = self.bytes.split_first_chunk().ok_or(Malformed)?;
        self.bytes = rest;
        Ok(*field)
    }

    fn unsigned(&mut self) -> Result<u32, Malformed> {
        let mut value = 0u32;
        for shift in (0..32).step_by(7) {
            let [byte] = self.array()?;
            value |= ((byte & 0x7f) as u32) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Malformed)
    }
}

/// Appends an unsigned varint (KIP-482).
pub fn write_unsigned(mut value: u32, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}
