//! Columns for people: aligned, two spaces apart, nothing after the last one.

use std::fmt;

pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub fn new(head: &[&str]) -> Table {
        let mut table = Table { rows: Vec::new() };
        table.row(head);
        table
    }

    pub fn row(&mut self, cells: &[&str]) {
        assert!(self.rows.first().is_none_or(|head| head.len() == cells.len()), "a cell for each column");
        self.rows.push(cells.iter().map(|cell| shown(cell)).collect());
    }
}

/// What strangers have named does not move the cursor.
fn shown(cell: &str) -> String {
    let mut text = String::with_capacity(cell.len());
    for letter in cell.chars() {
        match letter.is_control() {
            true => text.extend(letter.escape_default()),
            false => text.push(letter),
        }
    }
    text
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = self.rows.first().map_or(0, Vec::len);
        let width =
            |column: usize| self.rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<_> = (0..columns).map(width).collect();
        for row in &self.rows {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                line.push_str(&format!("{cell:width$}  "));
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_shown_as_what_they_are() {
        let mut table = Table::new(&["NAME", "N"]);
        table.row(&["a\n\u{1b}[2Jb\u{9b}", "1"]);
        let shown = "a\\n\\u{1b}[2Jb\\u{9b}";
        let head = format!("{:width$}  N", "NAME", width = shown.len());
        assert_eq!(table.to_string(), format!("{head}\n{shown}  1\n"));
    }

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(&["NAME", "N"]);
        table.row(&["a", "10"]);
        table.row(&["longer", ""]);
        assert_eq!(table.to_string(), "NAME    N\na       10\nlonger\n");
    }
}
