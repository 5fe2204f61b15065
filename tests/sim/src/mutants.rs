//! Is every rule of the protocol one whose loss would be seen?

use clap::ValueEnum;
use std::process::ExitCode;

use crate::rules::Rule;
use crate::search::first_violation;

pub fn run(seeds: u64) -> ExitCode {
    let mut unseen = 0;
    for rule in Rule::value_variants() {
        match first_violation(0..seeds, Some(*rule)) {
            Some((seed, violation)) => println!("without {rule:?}: seed {seed}: {violation}"),
            None => {
                unseen += 1;
                println!("without {rule:?}: {seeds} seeds, and nothing was seen");
            }
        }
    }
    println!("{} rules, {unseen} unseen", Rule::value_variants().len());
    if unseen == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
