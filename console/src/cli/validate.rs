//! `bistro validate`: every problem of a config, with its place.

use anyhow::Context;
use std::path::Path;
use std::process::ExitCode;

use super::print::{print_document, say};
use crate::text::{safe, safe_lines};
use bistro_common::config::{Source, parse};
use bistro_common::protocol::api::Severity;

pub fn run(file: &Path, strict: bool) -> anyhow::Result<ExitCode> {
    let text =
        std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let parsed = parse(&text);
    let name = file.display().to_string();
    let source = Source { file: &name, text: &text };
    for problem in &parsed.problems {
        say!("{}", safe(&source.report(problem).to_string()))?;
        if let Some(excerpt) = source.excerpt(problem) {
            say!("{}", safe_lines(&excerpt))?;
        }
    }
    let errors = parsed.problems.iter().filter(|p| p.severity == Severity::Error).count();
    let warnings = parsed.problems.len() - errors;
    say!("{errors} errors, {warnings} warnings")?;
    Ok(ExitCode::from(u8::from(errors > 0 || strict && warnings > 0)))
}

pub fn schema() -> anyhow::Result<ExitCode> {
    print_document(&bistro_common::config::schema())?;
    Ok(ExitCode::SUCCESS)
}
