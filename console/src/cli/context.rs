//! `bistro context`: names for cells.

use anyhow::Context as _;
use std::process::ExitCode;

use bistro_common::nats::Address;

use super::print::say;
use crate::args::ContextCommand;
use crate::client::contexts::{Context, Contexts};
use crate::text::safe;

pub fn run(command: ContextCommand, nats: Option<String>, cell: &str) -> anyhow::Result<ExitCode> {
    let mut contexts = Contexts::load()?;
    match command {
        ContextCommand::List => {
            for (name, context) in &contexts.contexts {
                let mark = if contexts.current.as_ref() == Some(name) { '*' } else { ' ' };
                // Without the password.
                let address = Address::parse(&context.nats)?;
                say!("{mark} {:<16} {:<16} {address}", safe(name), safe(&context.cell))?;
            }
            if contexts.contexts.is_empty() {
                eprintln!("none yet; `bistro context set NAME --nats URL` makes one");
            }
            return Ok(ExitCode::SUCCESS);
        }
        ContextCommand::Use { name } => {
            contexts.get(&name)?;
            say!("commands are about {} now", safe(&name))?;
            contexts.current = Some(name);
        }
        ContextCommand::Set { name } => {
            let nats = nats.context("where is its NATS? give --nats URL")?;
            Address::parse(&nats)?;
            say!("{} is the cell {}", safe(&name), safe(cell))?;
            // The first one is what is meant without a name.
            contexts.current.get_or_insert_with(|| name.clone());
            contexts.contexts.insert(name, Context { nats, cell: cell.to_owned() });
        }
        ContextCommand::Remove { name } => {
            contexts.get(&name)?;
            contexts.contexts.remove(&name);
            contexts.current = contexts.current.filter(|current| *current != name);
            say!("{} is forgotten", safe(&name))?;
        }
    }
    contexts.save()?;
    Ok(ExitCode::SUCCESS)
}
