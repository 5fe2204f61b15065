//! `bistro-sim`: both cores in a world that can go wrong in every way that we know of, and the
//! promises checked against what really happens there. A seed is a run, and always the same one.

mod checks;
mod clock;
mod faults;
mod mutants;
mod net;
mod queue;
mod rules;
mod scheduler;
mod search;
mod stream;
mod tasks;
mod trace;
mod worker;
mod workload;
mod world;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

use rules::Rule;

#[derive(Parser)]
#[command(name = "bistro-sim", about = "Runs the protocol through faults, and checks its promises")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs many seeds, and says which of them break a promise.
    Run {
        #[arg(long, default_value_t = 2_000)]
        seeds: u64,
        /// The first seed.
        #[arg(long, default_value_t = 0)]
        from: u64,
    },
    /// Runs one seed and tells what happens.
    Replay {
        seed: u64,
        /// With this rule switched off.
        #[arg(long)]
        without: Option<Rule>,
    },
    /// Finds the fewest faults with which a seed still breaks a promise.
    Shrink {
        seed: u64,
        #[arg(long)]
        without: Option<Rule>,
    },
    /// Switches off one rule at a time, and says how soon that is seen.
    Mutants {
        /// So many seeds are tried for each.
        #[arg(long, default_value_t = 10_000)]
        seeds: u64,
    },
}

fn main() -> ExitCode {
    match Args::parse().command {
        Command::Run { seeds, from } => search::run(from, seeds),
        Command::Replay { seed, without } => search::replay(seed, faults::draw(seed), without),
        Command::Shrink { seed, without } => search::shrink(seed, without),
        Command::Mutants { seeds } => mutants::run(seeds),
    }
}
