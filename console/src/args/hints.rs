//! What to type instead, where other tools have taught fingers something else.

use clap::Error;
use clap::builder::StyledStr;
use clap::error::{ContextKind, ContextValue};

/// The error with a tip, if what was not understood is such a habit.
pub fn add(mut error: Error) -> Error {
    let unknown = [ContextKind::InvalidArg, ContextKind::InvalidSubcommand];
    let unknown = unknown.into_iter().find_map(|kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        _ => None,
    });
    let tip = match unknown.as_deref() {
        Some("--json") => "`-o json` prints JSON",
        Some("list" | "ls") => {
            "`bistro jobs`, `bistro nodes`, `bistro tasks` and `bistro workers` are lists"
        }
        _ => return error,
    };
    let tip = ContextValue::StyledStrs(vec![StyledStr::from(tip)]);
    // Instead of the likeliest spelling, which says less.
    for kind in [ContextKind::SuggestedArg, ContextKind::SuggestedSubcommand] {
        error.remove(kind);
    }
    error.insert(ContextKind::Suggested, tip);
    error
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Args;
    use clap::Parser;

    fn said(line: &str) -> String {
        let parsed = Args::try_parse_from(line.split(' '));
        add(parsed.expect_err("these are refused")).to_string()
    }

    #[test]
    fn habits_of_other_tools_get_a_tip() {
        for line in ["bistro status --json", "bistro workers --json"] {
            let said = said(line);
            assert!(said.contains("tip: `-o json` prints JSON"), "{said}");
        }
        for line in ["bistro tasks list", "bistro worker list", "bistro job ls"] {
            let said = said(line);
            assert!(said.contains("`bistro tasks`"), "{line}: {said}");
        }
    }
}
