//! `bistro validate`: every problem of a config, with its place.

use anyhow::Context;
use std::path::Path;
use std::process::ExitCode;

use super::print::{print_document, say};
use crate::text::{safe, safe_lines};
use bistro_common::protocol::api::{ProblemReport, Severity};
use bistro_scheduler::config_files;

pub fn run(path: &Path, strict: bool) -> anyhow::Result<ExitCode> {
    let files =
        config_files::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let parsed = config_files::parse(&files);
    for (file, problem) in &parsed.problems {
        let source = config_files::source(&files[*file]);
        say!("{}", safe(&source.report(problem).to_string()))?;
        if let Some(excerpt) = source.excerpt(problem) {
            say!("{}", safe_lines(&excerpt))?;
        }
    }
    let is_error = |problem: &&ProblemReport| problem.severity == Severity::Error;
    let errors = parsed.reports.iter().filter(is_error).count();
    let warnings = parsed.reports.len() - errors;
    say!("{errors} errors, {warnings} warnings")?;
    Ok(ExitCode::from(u8::from(errors > 0 || strict && warnings > 0)))
}

pub fn schema() -> anyhow::Result<ExitCode> {
    print_document(&bistro_common::config::schema())?;
    Ok(ExitCode::SUCCESS)
}
