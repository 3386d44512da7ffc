//! Rows on standard output: aligned, CSV or JSON. Rows are printed as they come; the table's
//! columns are as wide as the widest value of the rows at hand.

use std::io::{self, Write};

use costream_handler::sql::cell::{Cell, csv_field, csv_line, json_text};

use crate::cli::Format;

/// Rows that an aligned table holds back to find out how wide its columns are.
const ALIGNED_ROWS: usize = 1_000;

/// A printer of one answer. Holds at most [`ALIGNED_ROWS`] rows.
pub(crate) struct Printer<W> {
    out: W,
    format: Format,
    columns: Vec<String>,
    /// The widths so far, in characters.
    widths: Vec<usize>,
    /// Which columns stand to the right: numbers.
    right: Vec<bool>,
    held: Vec<Vec<Cell>>,
    printed: u64,
}

impl<W: Write> Printer<W> {
    /// Prints what stands before the rows.
    ///
    /// # Errors
    /// The output is closed or full, here as in all that follows.
    pub(crate) fn new(mut out: W, format: Format, columns: Vec<String>) -> io::Result<Self> {
        match format {
            Format::Table => {}
            Format::Csv => {
                let names: Vec<_> = columns.iter().map(|name| csv_field(name)).collect();
                writeln!(out, "{}", names.join(","))?;
            }
            Format::Json => write!(out, "[")?,
        }
        let widths = columns.iter().map(|name| name.chars().count()).collect();
        let right = vec![false; columns.len()];
        Ok(Self { out, format, columns, widths, right, held: Vec::new(), printed: 0 })
    }

    /// Prints a row.
    pub(crate) fn row(&mut self, row: Vec<Cell>) -> io::Result<()> {
        match self.format {
            Format::Table => {
                self.held.push(row);
                if self.held.len() == ALIGNED_ROWS {
                    self.print_held()?;
                }
            }
            Format::Csv => writeln!(self.out, "{}", csv_line(&row))?,
            Format::Json => {
                let separator = if self.printed == 0 { "\n" } else { ",\n" };
                write!(self.out, "{separator}{{")?;
                for (nth, (name, cell)) in self.columns.iter().zip(&row).enumerate() {
                    let separator = if nth == 0 { "" } else { ", " };
                    write!(self.out, "{separator}{}: {}", json_text(name), cell.to_json())?;
                }
                write!(self.out, "}}")?;
                self.printed += 1;
            }
        }
        Ok(())
    }

    /// Prints what stands after the rows.
    pub(crate) fn end(mut self) -> io::Result<()> {
        match self.format {
            Format::Table => {
                if self.printed == 0 || !self.held.is_empty() {
                    self.print_held()?;
                }
            }
            Format::Csv => {}
            Format::Json => writeln!(self.out, "\n]")?,
        }
        self.out.flush()
    }

    fn print_held(&mut self) -> io::Result<()> {
        let held = std::mem::take(&mut self.held);
        let texts: Vec<Vec<String>> = held.iter().map(|row| row.iter().map(aligned_text).collect()).collect();
        for row in &texts {
            for (width, text) in self.widths.iter_mut().zip(row) {
                *width = (*width).max(text.chars().count());
            }
        }
        if self.printed == 0 {
            for row in &held {
                for (right, cell) in self.right.iter_mut().zip(row) {
                    *right |= matches!(cell, Cell::Number(_));
                }
            }
            let names = self.columns.clone();
            self.print_line(&names)?;
            let rules: Vec<_> = self.widths.iter().map(|width| "-".repeat(*width)).collect();
            self.print_line(&rules)?;
        }
        for row in &texts {
            self.print_line(row)?;
        }
        self.printed += 1;
        Ok(())
    }

    fn print_line(&mut self, texts: &[String]) -> io::Result<()> {
        let mut line = String::new();
        for (nth, ((text, right), width)) in texts.iter().zip(&self.right).zip(&self.widths).enumerate() {
            if nth > 0 {
                line.push_str("  ");
            }
            let blanks = " ".repeat(width.saturating_sub(text.chars().count()));
            let (before, after) = if *right { (blanks.as_str(), "") } else { ("", blanks.as_str()) };
            line.extend([before, text, after]);
        }
        writeln!(self.out, "{}", line.trim_end())
    }
}

/// A cell on one line.
fn aligned_text(cell: &Cell) -> String {
    let text = cell.text().unwrap_or("NULL");
    if text.contains(char::is_control) { text.escape_debug().to_string() } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(format: Format) -> String {
        let mut out = Vec::new();
        let mut printer = Printer::new(&mut out, format, vec!["name".into(), "billed".into()]).expect("print");
        for (name, billed) in [
            (Cell::Text("a, \"b\"\n".into()), Cell::Number("1.000000000000000001".into())),
            (Cell::Text(String::new()), Cell::Null),
            (Cell::Null, Cell::Number("-12".into())),
        ] {
            printer.row(vec![name, billed]).expect("print");
        }
        printer.end().expect("print");
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn each_format_has_its_own_nulls() {
        assert_eq!(printed(Format::Csv), "name,billed\n\"a, \"\"b\"\"\n\",1.000000000000000001\n\"\",\n,-12\n");
        assert_eq!(
            printed(Format::Json),
            "[\n{\"name\": \"a, \\\"b\\\"\\n\", \"billed\": 1.000000000000000001},\n{\"name\": \"\", \"billed\": null},\n{\"name\": null, \"billed\": -12}\n]\n"
        );
        assert_eq!(
            printed(Format::Table).lines().collect::<Vec<_>>(),
            [
                r#"name                      billed"#,
                r#"----------  --------------------"#,
                r#"a, \"b\"\n  1.000000000000000001"#,
                r#"                            NULL"#,
                r#"NULL                         -12"#,
            ]
        );
    }

    #[test]
    fn no_rows_are_still_an_answer() {
        for (format, text) in [(Format::Csv, "n\n"), (Format::Json, "[\n]\n"), (Format::Table, "n\n-\n")] {
            let mut out = Vec::new();
            Printer::new(&mut out, format, vec!["n".into()]).expect("print").end().expect("print");
            assert_eq!(String::from_utf8(out).expect("text"), text);
        }
    }
}
