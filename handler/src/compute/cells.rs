//! What of a notebook is run: a kind and its text in, [`Cells`] out. Does not look into Python: what is wrong with that,
//! its interpreter says.

use serde::{Deserialize, Serialize};

/// What a notebook is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Plain Python.
    Python,
    /// Jupyter's format, version 4: its code cells are run in order.
    Ipynb,
    /// One statement, which the handler answers itself.
    Sql,
}

impl Kind {
    const EACH: [Self; 3] = [Self::Python, Self::Ipynb, Self::Sql];

    /// As the table of notebooks has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Python => "python",
            Self::Ipynb => "ipynb",
            Self::Sql => "sql",
        }
    }

    /// The kind of that name; Python when there is none.
    pub(crate) fn named(name: &str) -> Self {
        Self::EACH.into_iter().find(|kind| kind.as_str() == name).unwrap_or(Self::Python)
    }

    /// What somebody uploads: its content type says so, or the end of its name, or, of Jupyter's format, its text.
    pub(crate) fn of(name: &str, content_type: &str, code: &str) -> Self {
        let media_type = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        match media_type.as_str() {
            "application/x-ipynb+json" => return Self::Ipynb,
            "application/sql" | "application/x-sql" | "text/x-sql" => return Self::Sql,
            "text/x-python" | "application/x-python" | "text/x-python-script" => return Self::Python,
            _ => {}
        }
        let ends = |end: &str| {
            let from = name.len().saturating_sub(end.len());
            name.get(from..).is_some_and(|tail| tail.eq_ignore_ascii_case(end))
        };
        if ends(".sql") {
            Self::Sql
        } else if ends(".ipynb") || (!ends(".py") && code.trim_start().starts_with('{') && Document::read(code).is_ok())
        {
            Self::Ipynb
        } else {
            Self::Python
        }
    }
}

/// What an interpreter runs, each in a file of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Cells {
    /// What the program is called: `sys.argv[0]`.
    pub(super) file: &'static str,
    /// Names of files, and their text.
    pub(super) cells: Vec<(String, String)>,
    /// Whether magics (`%matplotlib`, `!pip`) may be among them, which are no Python.
    pub(super) cells_of_ipynb: bool,
}

/// Text that is not Jupyter's format.
#[derive(Debug, thiserror::Error)]
pub enum CellsError {
    /// It is no JSON, or has not its members.
    #[error("the notebook is not of Jupyter's format")]
    Form(#[from] serde_json::Error),
    /// A version of the format that is not read.
    #[error("the notebook is of Jupyter's format {0}: 4 is read")]
    Version(u32),
}

impl Cells {
    /// One file of Python.
    pub(crate) fn of_python(code: String) -> Self {
        const FILE: &str = "notebook.py";
        Self { file: FILE, cells: vec![(FILE.to_owned(), code)], cells_of_ipynb: false }
    }

    /// The code cells of a notebook of Jupyter's, numbered among all its cells from 1.
    pub(crate) fn of_ipynb(text: &str) -> Result<Self, CellsError> {
        let numbered = Document::read(text)?.cells.into_iter().zip(1..);
        let code = numbered.filter(|(cell, _)| cell.cell_type == "code");
        let cells = code.map(|(cell, number)| (format!("cell_{number}.py"), cell.source.into_text()));
        Ok(Self { file: "notebook.ipynb", cells: cells.collect(), cells_of_ipynb: true })
    }
}

#[derive(Deserialize)]
struct Document {
    nbformat: u32,
    cells: Vec<Cell>,
}

impl Document {
    fn read(text: &str) -> Result<Self, CellsError> {
        let document: Self = serde_json::from_str(text)?;
        if document.nbformat == 4 { Ok(document) } else { Err(CellsError::Version(document.nbformat)) }
    }
}

#[derive(Deserialize)]
struct Cell {
    cell_type: String,
    source: Source,
}

/// One text, or its lines with their breaks.
#[derive(Deserialize)]
#[serde(untagged)]
enum Source {
    Text(String),
    Lines(Vec<String>),
}

impl Source {
    fn into_text(self) -> String {
        match self {
            Self::Text(text) => text,
            Self::Lines(lines) => lines.concat(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTEBOOK: &str = r##"{"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": [
        {"cell_type": "markdown", "metadata": {}, "source": ["# Costs\n"]},
        {"cell_type": "code", "metadata": {}, "outputs": [], "source": ["a = 1\n", "b = 2"]},
        {"cell_type": "code", "metadata": {}, "outputs": [], "source": "print(a + b)"}]}"##;

    #[test]
    fn code_cells_are_numbered_among_all_cells() {
        let cells = Cells::of_ipynb(NOTEBOOK).expect("a notebook");
        let expected = [("cell_2.py", "a = 1\nb = 2"), ("cell_3.py", "print(a + b)")];
        assert_eq!(cells.cells, expected.map(|(name, code)| (name.to_owned(), code.to_owned())));
        for (text, reason) in [
            ("{}", "Jupyter's format"),
            ("print(1)", "Jupyter's format"),
            (r#"{"nbformat": 3, "cells": []}"#, "format 3: 4 is read"),
        ] {
            assert!(Cells::of_ipynb(text).expect_err(text).to_string().contains(reason), "{text}");
        }
    }

    #[test]
    fn the_kind_is_told_by_content_type_name_or_text() {
        for (name, content_type, code, kind) in [
            ("a", "application/octet-stream", "print(1)", Kind::Python),
            ("a", "", "{1: 2}", Kind::Python),
            ("a", "application/json", NOTEBOOK, Kind::Ipynb),
            ("a.py", "", NOTEBOOK, Kind::Python),
            ("a.IPYNB", "", "whatever", Kind::Ipynb),
            ("a.sql", "", "select 1", Kind::Sql),
            ("a", "application/sql; charset=utf-8", "select 1", Kind::Sql),
            ("a.sql", "text/x-python", "print(1)", Kind::Python),
            ("ä", "", "", Kind::Python),
        ] {
            assert_eq!(Kind::of(name, content_type, code), kind, "{name} {content_type}");
            assert_eq!(Kind::named(kind.as_str()), kind);
        }
    }
}
