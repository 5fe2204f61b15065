//! Answers as tables, JSON, CSV or names.

use comfy_table::{ContentArrangement, Table, presets};
use serde_json::Value;
use std::io::Write;

use crate::args::{Output, OutputArgs};
use crate::text::{safe, safe_json};

/// Prints a listing; `columns` are those of the table and of CSV, the first one is the name.
pub fn print_rows(listing: &Value, output: OutputArgs, columns: &[&str]) -> std::io::Result<()> {
    let empty = Vec::new();
    let items = listing["items"].as_array().unwrap_or(&empty);
    match output.output {
        Output::Json => print_document(listing)?,
        Output::Table => {
            say!("{}", table(columns, items))?;
            let total = listing["total"].as_u64().unwrap_or(0);
            if total > items.len() as u64 {
                say!("{} of {total}; see --filter, --offset and --limit", items.len())?;
            }
        }
        other => {
            let mut rows = Rows::new(other, columns);
            for item in items {
                say!("{}", rows.next(item))?;
            }
        }
    }
    Ok(())
}

fn table(columns: &[&str], items: &[Value]) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    // Cells are folded to fit a terminal, and left alone in a pipe.
    table.set_content_arrangement(ContentArrangement::Dynamic);
    // Some terminals do not know how wide they are.
    if table.width() == Some(0) {
        table.set_width(120);
    }
    let title = |column: &&str| column.rsplit('.').next().unwrap_or(column).to_uppercase();
    table.set_header(columns.iter().map(title));
    for item in items {
        table.add_row(columns.iter().map(|column| cell_text(field(item, column))));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.trim_fmt()
}

/// `a.b` is the field `b` of the field `a`.
fn field<'a>(item: &'a Value, column: &str) -> &'a Value {
    column.split('.').fold(item, |value, name| &value[name])
}

/// Rows one by one, for lists that do not end: a JSON object, CSV (after a header) or a name.
pub struct Rows<'a> {
    output: Output,
    columns: &'a [&'a str],
    header: bool,
}

impl<'a> Rows<'a> {
    pub fn new(output: Output, columns: &'a [&'a str]) -> Self {
        Self { output, columns, header: output == Output::Csv }
    }

    pub fn next(&mut self, item: &Value) -> String {
        let text = |column: &&str| cell_text(field(item, column));
        match self.output {
            Output::Name => self.columns.first().map(text).unwrap_or_default(),
            Output::Csv => {
                let fields: Vec<_> = self.columns.iter().map(|c| csv_field(&text(c))).collect();
                let row = fields.join(",");
                match std::mem::take(&mut self.header) {
                    true => format!("{}\n{row}", self.columns.join(",")),
                    false => row,
                }
            }
            Output::Table | Output::Json | Output::Ndjson => safe_json(&item.to_string()),
        }
    }
}

/// `println!` that is an error and not a panic when nobody reads any more.
macro_rules! say {
    ($($arg:tt)*) => { $crate::cli::print::print_line(&format!($($arg)*)) };
}
pub(crate) use say;

/// Prints one JSON document.
pub fn print_document(document: &Value) -> std::io::Result<()> {
    print_line(&safe_json(&format!("{document:#}")))
}

/// Prints a line now, and says whether anybody still reads.
pub fn print_line(text: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}")?;
    out.flush()
}

/// A JSON value in one line for people.
pub fn cell_text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => safe(text),
        Value::Array(items) => items.iter().map(cell_text).collect::<Vec<_>>().join(", "),
        Value::Object(fields) => match (fields.get("used"), fields.get("limit")) {
            (Some(used), Some(limit)) => format!("{used}/{limit}"),
            _ => fields
                .iter()
                .map(|(key, value)| format!("{} {}", safe(key), cell_text(value)))
                .collect::<Vec<_>>()
                .join(", "),
        },
        other => other.to_string(),
    }
}

fn csv_field(text: &str) -> String {
    match text.contains([',', '"', '\n']) {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn cells_are_one_safe_line() {
        assert_eq!(cell_text(&json!({"cpu": {"used": 1, "limit": 4}})), "cpu 1/4");
        assert_eq!(cell_text(&json!("a\u{1b}[31m")), "a\u{fffd}[31m");
        assert_eq!(csv_field("a,\"b\""), "\"a,\"\"b\"\"\"");
    }

    #[test]
    fn csv_has_one_header() {
        let mut rows = Rows::new(Output::Csv, &["a", "b"]);
        assert_eq!(rows.next(&json!({"a": 1, "b": "x,y"})), "a,b\n1,\"x,y\"");
        assert_eq!(rows.next(&json!({"a": 2})), "2,");
        assert_eq!(Rows::new(Output::Name, &["a", "b"]).next(&json!({"a": "n"})), "n");
    }
}
