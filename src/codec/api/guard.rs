//! A walk over a request's bytes that comes before the library's decoder.
//!
//! The library reserves memory for as many elements as an array announces, so twenty bytes from a
//! stranger could abort the process. The walk checks that every length and count fits the bytes
//! that are there and that the whole stays within [`REQUEST_ELEMENTS_MAX`]; it allocates nothing.

use crate::codec::api::schema::{Field, Kind, Structure, field};
use crate::codec::wire::{Encoding, Reader, WireError};
use crate::types::limits::{REQUEST_ELEMENTS_MAX, REQUEST_TAGGED_FIELDS_MAX};

/// Why a body is not a request that may be handed to the library.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WalkError {
    #[error("field {field}: {error}")]
    Malformed { field: &'static str, error: WireError },
    #[error("field {field}: the tagged value takes {used} bytes, {size} are announced")]
    TagSize { field: &'static str, size: usize, used: usize },
    #[error("more than {REQUEST_ELEMENTS_MAX} array elements in one request")]
    TooManyElements,
    #[error("more than {REQUEST_TAGGED_FIELDS_MAX} tagged fields in one request")]
    TooManyTaggedFields,
}

/// What a walk has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Walked {
    /// Bytes of the request.
    pub size: usize,
    pub elements: usize,
    pub tagged_fields: usize,
}

/// Walks a request. O(bytes); recursion goes as deep as the descriptions, three
/// structures.
///
/// Bytes behind it are left alone, as Kafka does: librdkafka sends three of them with Metadata 9 and
/// above when it asks for all topics.
pub(super) fn walk(
    structure: &Structure,
    version: i16,
    encoding: Encoding,
    body: &[u8],
) -> Result<Walked, WalkError> {
    let reader = Reader::new(body, encoding);
    let mut walk = Walk { reader, version, elements: 0, tagged_fields: 0 };
    walk.structure(structure)?;
    let size = body.len() - walk.reader.remaining();
    Ok(Walked { size, elements: walk.elements, tagged_fields: walk.tagged_fields })
}

struct Walk<'a> {
    reader: Reader<'a>,
    version: i16,
    elements: usize,
    tagged_fields: usize,
}

impl Walk<'_> {
    fn structure(&mut self, structure: &Structure) -> Result<(), WalkError> {
        let version = self.version;
        for field in structure.fields.iter().filter(|field| field.is_in(version)) {
            self.field(field)?;
        }
        if self.reader.encoding() == Encoding::Compact {
            self.tagged(structure)?;
        }
        Ok(())
    }

    fn field(&mut self, field: &Field) -> Result<(), WalkError> {
        match field.kind {
            Kind::Str if field.is_nullable(self.version) => {
                self.reader.nullable_str().map(drop).map_err(malformed(field))
            }
            Kind::Array(element) if field.is_nullable(self.version) => {
                let count = self.reader.nullable_count(self.size_min(element));
                self.elements(field, element, count.map(Option::unwrap_or_default))
            }
            Kind::Structure(structure) if field.is_nullable(self.version) => {
                self.nullable_structure(field, structure)
            }
            kind => self.value(field, kind),
        }
    }

    /// A byte says whether there is one: 1 or -1. Kafka takes any other positive one for the former, and the
    /// library for the latter.
    fn nullable_structure(&mut self, field: &Field, structure: &Structure) -> Result<(), WalkError> {
        let at = self.reader.at();
        match self.reader.i8().map_err(malformed(field))? {
            1 => self.structure(structure),
            -1 => Ok(()),
            other => Err(malformed(field)(WireError::Length { at, length: other.into() })),
        }
    }

    /// A value that may not be null: an element, or a field that is not nullable.
    fn value(&mut self, field: &Field, kind: Kind) -> Result<(), WalkError> {
        match kind {
            Kind::Fixed(size) => self.reader.take(size).map(drop).map_err(malformed(field)),
            Kind::Str => self.reader.str().map(drop).map_err(malformed(field)),
            Kind::Bytes => self.reader.bytes().map(drop).map_err(malformed(field)),
            Kind::Array(element) => {
                let count = self.reader.count(self.size_min(element));
                self.elements(field, element, count)
            }
            Kind::Structure(structure) => self.structure(structure),
        }
    }

    fn elements(
        &mut self,
        field: &Field,
        element: &Kind,
        count: Result<usize, WireError>,
    ) -> Result<(), WalkError> {
        let count = count.map_err(malformed(field))?;
        self.elements += count;
        if self.elements > REQUEST_ELEMENTS_MAX {
            return Err(WalkError::TooManyElements);
        }
        for _ in 0..count {
            self.value(field, *element)?;
        }
        Ok(())
    }

    /// Passes over tagged fields. Those the library decodes must fill the size they announce: it
    /// ignores that size and would lose its place.
    fn tagged(&mut self, structure: &Structure) -> Result<(), WalkError> {
        const TAGS: Field = field("tagged fields", Kind::Fixed(0));
        for _ in 0..self.reader.uvarint().map_err(malformed(&TAGS))? {
            self.tagged_fields += 1;
            if self.tagged_fields > REQUEST_TAGGED_FIELDS_MAX {
                return Err(WalkError::TooManyTaggedFields);
            }
            let tag = self.reader.uvarint().map_err(malformed(&TAGS))?;
            let size = self.reader.uvarint().map_err(malformed(&TAGS))? as usize;
            let version = self.version;
            let known = structure.tagged.iter().find(|(known, field)| *known == tag && field.is_in(version));
            let Some((_, field)) = known else {
                self.reader.take(size).map_err(malformed(&TAGS))?;
                continue;
            };
            let start = self.reader.at();
            self.field(field)?;
            let used = self.reader.at() - start;
            if used != size {
                return Err(WalkError::TagSize { field: field.name, size, used });
            }
        }
        Ok(())
    }

    fn size_min(&self, kind: &Kind) -> usize {
        size_min(kind, self.version, self.reader.encoding())
    }
}

fn malformed(field: &Field) -> impl Fn(WireError) -> WalkError {
    let field = field.name;
    move |error| WalkError::Malformed { field, error }
}

/// Bytes that a value takes at the least: everything empty or null.
fn size_min(kind: &Kind, version: i16, encoding: Encoding) -> usize {
    match (kind, encoding) {
        (Kind::Fixed(size), _) => *size,
        (Kind::Str, Encoding::Classic) => 2,
        (Kind::Bytes | Kind::Array(_), Encoding::Classic) => 4,
        (Kind::Str | Kind::Bytes | Kind::Array(_), Encoding::Compact) => 1,
        (Kind::Structure(structure), _) => {
            let fields = structure.fields.iter().filter(|field| field.is_in(version));
            let sizes = fields.map(|field| match field.kind {
                Kind::Structure(_) if field.is_nullable(version) => 1,
                kind => size_min(&kind, version, encoding),
            });
            sizes.sum::<usize>() + usize::from(encoding == Encoding::Compact)
        }
    }
}
