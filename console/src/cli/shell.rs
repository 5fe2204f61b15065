//! `bistro completions` and `bistro man`: what a shell and its user are helped by.

use anyhow::Context;
use clap::CommandFactory;
use clap_complete::env::Shells;
use std::path::Path;
use std::process::ExitCode;

use crate::args::{Args, Shell};

/// The variable by which a shell asks for completions.
const VARIABLE: &str = "COMPLETE";

pub fn completions(shell: Shell) -> anyhow::Result<ExitCode> {
    let name = match shell {
        Shell::Bash => "bash",
        Shell::Zsh => "zsh",
        Shell::Fish => "fish",
    };
    let shells = Shells::builtins();
    let completer = shells.completer(name).context("this shell is not known")?;
    let mut out = std::io::stdout().lock();
    completer.write_registration(VARIABLE, "bistro", "bistro", "bistro", &mut out)?;
    Ok(ExitCode::SUCCESS)
}

pub fn manual(directory: &Path) -> anyhow::Result<ExitCode> {
    std::fs::create_dir_all(directory)
        .and_then(|()| clap_mangen::generate_to(Args::command(), directory))
        .with_context(|| format!("cannot write to {}", directory.display()))?;
    Ok(ExitCode::SUCCESS)
}
