//! One thing that a file says: a line of `key: value` for people, one JSON object for programs.
//!
//! Keys, values and headers of records are whatever a client sent. For people they stand between
//! quotes, with everything escaped that is not printable, so that no record can move the cursor or
//! forge a line; in JSON they are strings, or objects with hexadecimal digits where they are not UTF-8.

use std::io::{self, Write};

use serde_json::{Map, Value, json};

#[derive(Clone, Debug, PartialEq)]
pub enum Field {
    /// Ours: numbers, names of codecs and the like.
    Plain(Value),
    /// Somebody else's bytes.
    Data(Option<Vec<u8>>),
    /// Headers of a record: names and values.
    Headers(Vec<(Vec<u8>, Option<Vec<u8>>)>),
}

impl<T: Into<Value>> From<T> for Field {
    fn from(value: T) -> Field {
        Field::Plain(value.into())
    }
}

#[derive(Clone, Debug)]
pub struct Item {
    kind: &'static str,
    /// Part of the item before it.
    nested: bool,
    fields: Vec<(&'static str, Field)>,
}

impl Item {
    pub fn new(kind: &'static str) -> Item {
        Item { kind, nested: false, fields: Vec::new() }
    }

    /// An item that belongs to the one before it.
    pub fn nested(kind: &'static str) -> Item {
        Item { nested: true, ..Item::new(kind) }
    }

    /// Something that does not hold, `position` bytes into the file.
    pub fn problem(position: u64, reason: impl ToString) -> Item {
        Item::new("problem").with("position", position).with("reason", reason.to_string())
    }

    pub fn with(mut self, name: &'static str, field: impl Into<Field>) -> Item {
        self.fields.push((name, field.into()));
        self
    }

    fn text(&self) -> String {
        let mut line = String::new();
        if self.nested {
            line.push_str("| ");
        }
        // What a batch is, its fields say; what is wrong has to be found in a long output.
        if matches!(self.kind, "problem" | "end") {
            line.push_str(self.kind);
            line.push(' ');
        }
        for (name, field) in &self.fields {
            line.push_str(&format!("{name}: {} ", text(field)));
        }
        line.truncate(line.trim_end().len());
        line
    }

    fn json(&self) -> Value {
        let mut object = Map::new();
        object.insert("item".to_string(), self.kind.into());
        for (name, field) in &self.fields {
            object.insert(name.to_string(), json_of(field));
        }
        Value::Object(object)
    }
}

fn text(field: &Field) -> String {
    match field {
        Field::Plain(Value::Null) => "none".to_string(),
        Field::Plain(Value::String(word)) => word.clone(),
        Field::Plain(value) => value.to_string(),
        Field::Data(data) => quoted(data.as_deref()),
        Field::Headers(headers) => {
            let pairs = headers
                .iter()
                .map(|(name, value)| format!("{}: {}", quoted(Some(name)), quoted(value.as_deref())));
            format!("{{{}}}", pairs.collect::<Vec<_>>().join(", "))
        }
    }
}

/// Between quotes, printable as it is, the rest escaped; bytes that are no UTF-8 as `\xNN`.
fn quoted(data: Option<&[u8]>) -> String {
    let Some(data) = data else { return "null".to_string() };
    let mut text = String::from('"');
    for chunk in data.utf8_chunks() {
        text.extend(chunk.valid().escape_debug());
        chunk.invalid().iter().for_each(|byte| text.push_str(&format!("\\x{byte:02x}")));
    }
    text.push('"');
    text
}

fn json_of(field: &Field) -> Value {
    match field {
        Field::Plain(value) => value.clone(),
        Field::Data(data) => data_json(data.as_deref()),
        Field::Headers(headers) => {
            let pairs = headers.iter().map(
                |(name, value)| json!({"key": data_json(Some(name)), "value": data_json(value.as_deref())}),
            );
            pairs.collect()
        }
    }
}

fn data_json(data: Option<&[u8]>) -> Value {
    match data.map(std::str::from_utf8) {
        None => Value::Null,
        Some(Ok(text)) => text.into(),
        Some(Err(_)) => {
            let digits = data.unwrap_or_default().iter().map(|byte| format!("{byte:02x}"));
            json!({ "hex": digits.collect::<String>() })
        }
    }
}

/// Where items go.
pub struct Printer<W> {
    out: W,
    json: bool,
    /// Problems printed so far.
    pub problem_count: u64,
}

impl<W: Write> Printer<W> {
    pub fn new(out: W, json: bool) -> Printer<W> {
        Printer { out, json, problem_count: 0 }
    }

    pub fn print(&mut self, item: &Item) -> io::Result<()> {
        if item.kind == "problem" {
            self.problem_count += 1;
        }
        if self.json { writeln!(self.out, "{}", item.json()) } else { writeln!(self.out, "{}", item.text()) }
    }

    pub fn finish(mut self) -> io::Result<W> {
        self.out.flush()?;
        Ok(self.out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_of_clients_cannot_leave_their_quotes() {
        let item = Item::nested("record")
            .with("offset", 7)
            .with("headers", Field::Headers(vec![(b"h\n".to_vec(), None)]))
            .with("key", Field::Data(None))
            .with("payload", Field::Data(Some(b"\x1b[2J\"caf\xc3\xa9\" \xff\0".to_vec())));
        let line = item.text();
        assert_eq!(
            line,
            r#"| offset: 7 headers: {"h\n": null} key: null payload: "\u{1b}[2J\"café\" \xff\0""#
        );
        assert!(!line.contains(char::is_control));
        assert_eq!(
            item.json().to_string(),
            r#"{"headers":[{"key":"h\n","value":null}],"item":"record","key":null,"offset":7,"payload":{"hex":"1b5b324a22636166c3a92220ff00"}}"#
        );
    }
}
