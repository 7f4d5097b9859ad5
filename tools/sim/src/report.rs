//! How often everything happened, summed over seeds, and what a run of many seeds needs to have met.

use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Named counters; summable, and a text file in between.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts(BTreeMap<String, u64>);

impl Counts {
    pub fn add(&mut self, name: &str, count: u64) {
        match self.0.get_mut(name) {
            Some(sum) => *sum += count,
            None => {
                self.0.insert(name.to_owned(), count);
            }
        }
    }

    pub fn get(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or(0)
    }

    pub fn sum(&mut self, other: &Counts) {
        for (name, count) in &other.0 {
            self.add(name, *count);
        }
    }

    /// What should have happened and did not.
    pub fn missing(&self, expected: &[&'static str]) -> Vec<&'static str> {
        expected.iter().copied().filter(|name| self.get(name) == 0).collect()
    }

    /// One `name = count` a line.
    pub fn encode(&self) -> String {
        let mut out = String::new();
        for (name, count) in &self.0 {
            writeln!(out, "{name} = {count}").expect("a string takes it");
        }
        out
    }

    /// `None` for what is not such a text.
    pub fn decode(text: &str) -> Option<Counts> {
        let mut counts = Counts::default();
        for line in text.lines() {
            let (name, count) = line.rsplit_once(" = ")?;
            counts.add(name, count.parse().ok()?);
        }
        Some(counts)
    }

    /// A table for people: what is expected first, in its order, then the rest.
    pub fn table(&self, expected: &[&str]) -> String {
        let rest = self.0.keys().map(String::as_str).filter(|name| !expected.contains(name));
        let mut out = String::new();
        for name in expected.iter().copied().chain(rest) {
            writeln!(out, "{:>14}  {name}", self.get(name)).expect("a string takes it");
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_survive_a_file() {
        let mut counts = Counts::default();
        counts.add("fault: stall", 3);
        let mut read = Counts::decode(&counts.encode()).unwrap();
        read.sum(&counts);
        assert_eq!(read.get("fault: stall"), 6);
        assert_eq!(read.missing(&["fault: stall", "operations"]), ["operations"]);
        assert_eq!(Counts::decode("no count"), None);
    }
}
