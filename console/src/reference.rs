//! Every command and its flags, and every key, for `docs/reference/`. Only a test writes and compares
//! them.

use clap::{Command, CommandFactory};
use std::collections::BTreeMap;

use crate::args::Args;
use crate::tui::Keymap;

fn markdown() -> String {
    let mut page = String::from(
        "# Command line reference\n\n\
         Generated from `console/src/args.rs`; `just docs-update` writes it anew.\n\n\
         Exit codes: 0 ok, 1 what was asked for failed, 2 usage, 3 no answer from the cell, 4 no such\n\
         thing, 5 refused, 124 it took too long.\n",
    );
    // Everywhere the same, whatever the terminal.
    let root = Args::command().term_width(100);
    section(root, "", &mut page);
    page
}

fn section(command: Command, above: &str, page: &mut String) {
    let name = format!("{above}{}", command.get_name());
    // In help, global flags are shown with every command; here once.
    let mut shown = command.clone().bin_name(&name).disable_help_subcommand(true);
    let help = shown.render_long_help().to_string();
    let lines: Vec<_> = help.lines().map(str::trim_end).collect();
    *page += &format!("\n## {name}\n\n```text\n{}\n```\n", lines.join("\n").trim_end());
    for below in command.get_subcommands().filter(|command| !command.is_hide_set()) {
        section(below.clone(), &format!("{name} "), page);
    }
}

fn keys() -> String {
    let mut page = String::from(
        "# Keys of the console\n\n\
         Generated from `console/src/tui/keys.rs`; `just docs-update` writes it anew.\n\
         Other keys for a command: `{\"keys\": {\"kill\": [\"f9\"]}}` in \
         `~/.config/bistro/console.json`.\n\n\
         | command | keys | does | where |\n|---|---|---|---|\n",
    );
    let keymap = Keymap::new(&BTreeMap::new()).expect("the defaults are sound");
    for binding in &keymap.bindings {
        let views: Vec<_> = binding.views.iter().map(|view| view.title()).collect();
        let views = if views.is_empty() { "everywhere".to_owned() } else { views.join(", ") };
        page += &format!(
            "| `{}` | `{}` | {} | {views} |\n",
            binding.name,
            binding.shown(),
            binding.help
        );
    }
    page
}

fn check(file: &str, page: String) {
    let path = format!("{}/../docs/reference/{file}", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, &page).expect("docs can be written");
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(written == page, "docs/reference/{file} is stale; run `just docs-update`");
}

#[test]
fn the_page_is_up_to_date() {
    check("cli.md", markdown());
    check("keys.md", keys());
}

#[test]
fn every_command_says_what_it_does_and_shows_an_example() {
    fn look(command: &Command, below: &str) {
        for command in command.get_subcommands().filter(|command| !command.is_hide_set()) {
            let name = format!("{below} {}", command.get_name());
            assert!(command.get_about().is_some(), "{name}");
            let example = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(example.contains("bistro "), "{name} has no example");
            look(command, &name);
        }
    }
    look(&Args::command(), "bistro");
}
