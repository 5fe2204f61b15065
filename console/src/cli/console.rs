//! `bistro console`: one cell after the other, for as long as its user goes from one to another.

use std::process::ExitCode;

use anyhow::Context;
use bistro_common::nats::{Address, Patience};
use bistro_common::subject::Cell;

use super::print_line;
use crate::args::ConsoleArgs;
use crate::client::contexts::Contexts;
use crate::client::{Client, Place, find_url};
use crate::tui::settings::Settings;
use crate::tui::{self, Elsewhere, Memory};

pub async fn run(mut place: Place, args: &ConsoleArgs) -> anyhow::Result<ExitCode> {
    let mut settings = Settings::new(args)?;
    if args.keys {
        for binding in &settings.keymap().bindings {
            let (name, keys, help) = (binding.name, binding.shown(), binding.help);
            print_line(&format!("{name:<12} {keys:<14} {help}"))?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    settings.contexts = Contexts::load()?.contexts.into_keys().collect();
    settings.finds_cells = true;
    loop {
        let url = find_url(place.nats.as_deref())?;
        let (cell, name) = (place.cell.clone(), name(&place, &url)?);
        settings.context = place.context.clone();
        if args.once {
            return tui::once(Client::connect(&url, cell, Patience::FailFast).await?, settings)
                .await;
        }
        let client = Client::connect(&url, cell, Patience::KeepTrying).await?;
        if args.plain {
            return tui::plain(client, settings).await;
        }
        settings.memory = Memory::load(&name);
        let left = tui::run(client, settings.clone()).await?;
        if let Err(error) = left.memory.save(&name) {
            tracing::warn!("{error:#}");
        }
        let Some(to) = left.to else { return Ok(ExitCode::SUCCESS) };
        place = follow(place, to)?;
        settings.start = None;
    }
}

/// What a cell is remembered by. Without passwords.
fn name(place: &Place, url: &str) -> anyhow::Result<String> {
    Ok(match &place.context {
        Some(context) => context.clone(),
        None => format!("{} at {}", place.cell.name(), Address::parse(url)?),
    })
}

fn follow(place: Place, to: Elsewhere) -> anyhow::Result<Place> {
    match to {
        Elsewhere::Context(name) => Place::find(None, Some(&name), None),
        Elsewhere::Cell(cell) => {
            let cell = Cell::new(&cell).context("the name of a cell that was found")?;
            Ok(Place { cell, context: None, ..place })
        }
    }
}
