//! Regular expressions that groups subscribe by. A topic is subscribed to if all of its name matches, as in
//! Kafka, which compiles them with RE2/J.
//!
//! The syntax is that of the `regex` crate, which is RE2's but for this: `\Q..\E` is put into it here, and `(?x)`,
//! which RE2 does not have, is refused. Both match in time that is linear in the name; how large a compiled
//! expression may get is bounded, and so is the time that this takes.

use crate::types::limits::{GROUP_PATTERNS_MAX, GROUP_REGEX_COMPILED_SIZE_MAX, GROUP_REGEX_SIZE_MAX};
use regex::{Regex, RegexBuilder};
use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

/// A compiled expression.
#[derive(Clone, Debug)]
pub struct TopicPattern(Regex);

/// Why an expression is refused, as a user is told.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidPattern(String);

impl TopicPattern {
    pub fn new(pattern: &str) -> Result<TopicPattern, InvalidPattern> {
        if pattern.len() > GROUP_REGEX_SIZE_MAX {
            return Err(InvalidPattern(format!("longer than {GROUP_REGEX_SIZE_MAX} bytes")));
        }
        let pattern = unquote(pattern);
        // By itself first: what closes a bracket that is opened here is not an expression.
        compile(&pattern)?;
        match compile(&format!(r"\A(?:{pattern})\z")) {
            Ok(compiled) => Ok(TopicPattern(compiled)),
            // A comment has taken in the end.
            Err(_) => Err(InvalidPattern("the flag x is not supported".to_owned())),
        }
    }

    pub fn matches(&self, topic: &str) -> bool {
        self.0.is_match(topic)
    }
}

/// Expressions that have been compiled, for all groups that subscribe by the same one and for each time that topics
/// change.
///
/// Lives: one per shard. Bound: [`GROUP_PATTERNS_MAX`] of them, each of a bounded size; the oldest goes first.
#[derive(Debug, Default)]
pub struct Patterns {
    compiled: RefCell<Compiled>,
}

#[derive(Debug, Default)]
struct Compiled {
    patterns: BTreeMap<Rc<str>, Rc<TopicPattern>>,
    /// In the order in which they came.
    order: VecDeque<Rc<str>>,
}

impl Patterns {
    pub fn get(&self, pattern: &str) -> Result<Rc<TopicPattern>, InvalidPattern> {
        if let Some(known) = self.compiled.borrow().patterns.get(pattern) {
            return Ok(known.clone());
        }
        let new = Rc::new(TopicPattern::new(pattern)?);
        let mut compiled = self.compiled.borrow_mut();
        if compiled.order.len() == GROUP_PATTERNS_MAX
            && let Some(oldest) = compiled.order.pop_front()
        {
            compiled.patterns.remove(&oldest);
        }
        let text: Rc<str> = pattern.into();
        compiled.order.push_back(text.clone());
        compiled.patterns.insert(text, new.clone());
        Ok(new)
    }
}

fn compile(pattern: &str) -> Result<Regex, InvalidPattern> {
    let mut builder = RegexBuilder::new(pattern);
    builder.size_limit(GROUP_REGEX_COMPILED_SIZE_MAX).dfa_size_limit(GROUP_REGEX_COMPILED_SIZE_MAX);
    // Names of topics are ASCII: without Unicode classes are small. Some need it, such as `\pL`.
    builder.unicode(false).build().or_else(|_| builder.unicode(true).build()).map_err(|error| {
        let text = error.to_string();
        // The last line says what it is about; those above show where.
        let line = text.lines().next_back().unwrap_or_default();
        InvalidPattern(line.trim().trim_start_matches("error: ").to_owned())
    })
}

/// Puts what stands between `\Q` and `\E` into other words.
fn unquote(pattern: &str) -> String {
    let mut out = String::with_capacity(pattern.len());
    let mut rest = pattern;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        let escaped = &rest[at + 1..];
        if let Some(quoted) = escaped.strip_prefix('Q') {
            let (literal, behind) = quoted.split_once(r"\E").unwrap_or((quoted, ""));
            out.push_str(&regex::escape(literal));
            rest = behind;
        } else {
            let end = escaped.chars().next().map_or(0, char::len_utf8);
            out.push_str(&rest[at..at + 1 + end]);
            rest = &escaped[end..];
        }
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, topic: &str) -> bool {
        TopicPattern::new(pattern).unwrap().matches(topic)
    }

    #[test]
    fn all_of_a_name_has_to_match() {
        assert!(matches("orders", "orders"));
        assert!(!matches("orders", "orders-eu"));
        assert!(!matches("rders", "orders"));
        assert!(matches("orders.*", "orders-eu"));
        assert!(matches("^orders-(eu|us)$", "orders-us"));
        assert!(matches("a|bc", "bc"));
        assert!(!matches("a|bc", "ac"));
        assert!(matches("", ""));
    }

    #[test]
    fn the_syntax_is_that_of_re2() {
        assert!(matches(r"\Qa.b\E.", "a.bc"));
        assert!(!matches(r"\Qa.b\E.", "axbc"));
        assert!(matches(r"a\.b\Q.c", "a.b.c"));
        assert!(matches(r"(?i)ORDERS", "orders"));
        assert!(matches(r"\w+-\d{2}", "part_1-07"));
        assert!(matches(r"\pL+", "abc"));
        assert!(matches("[[:alpha:]]+", "abc"));
        assert!(matches(r"(?P<name>x)y", "xy"));
    }

    #[test]
    fn what_is_no_expression_is_refused() {
        for pattern in ["(", "[a", "a)|(b", "a{2,1}", r"(a)\1", "(?=a)", "(?x)a # ", "*", r"a\"] {
            assert!(TopicPattern::new(pattern).is_err(), "{pattern}");
        }
        assert_eq!(TopicPattern::new("(").unwrap_err().to_string(), "unclosed group");
    }

    #[test]
    fn expressions_are_compiled_once_and_the_oldest_is_forgotten() {
        let patterns = Patterns::default();
        let first = patterns.get("a.*").unwrap();
        assert!(Rc::ptr_eq(&first, &patterns.get("a.*").unwrap()));
        assert!(patterns.get("(").is_err());
        for number in 1..GROUP_PATTERNS_MAX {
            patterns.get(&format!("b{number}")).unwrap();
        }
        assert!(Rc::ptr_eq(&first, &patterns.get("a.*").unwrap()), "there is place for so many");
        patterns.get("c").unwrap();
        assert!(!Rc::ptr_eq(&first, &patterns.get("a.*").unwrap()));
        assert_eq!(patterns.compiled.borrow().patterns.len(), GROUP_PATTERNS_MAX);
    }

    #[test]
    fn no_expression_takes_much_memory() {
        assert!(TopicPattern::new(r"(\w{1000}){1000}").is_err());
        assert!(TopicPattern::new(&"a".repeat(GROUP_REGEX_SIZE_MAX + 1)).is_err());
    }
}
