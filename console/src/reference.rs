//! Every command and its flags, for `docs/reference/cli.md`. Only a test writes and compares it.

use clap::{Command, CommandFactory};

use crate::args::Args;

fn markdown() -> String {
    let mut page = String::from(
        "# Command line reference\n\n\
         Generated from `console/src/args.rs`; `just docs-update` writes it anew.\n\n\
         Exit codes: 0 ok, 1 what was asked for failed, 2 usage, 3 no answer from the cell.\n",
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

#[test]
fn the_page_is_up_to_date() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/reference/cli.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(path, markdown()).expect("docs can be written");
    }
    let page = std::fs::read_to_string(path).unwrap_or_default();
    assert!(page == markdown(), "docs/reference/cli.md is stale; run `just docs-update`");
}

#[test]
fn every_command_says_what_it_does_and_shows_an_example() {
    for command in Args::command().get_subcommands().filter(|command| !command.is_hide_set()) {
        assert!(command.get_about().is_some(), "{}", command.get_name());
        let example = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        assert!(example.contains("bistro "), "{} has no example", command.get_name());
    }
}
