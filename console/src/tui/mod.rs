//! The console: messages in, state changed by `update`, drawn by `view`. I/O is here and in `feed`.

mod feed;
mod grid;
mod keys;
mod state;
mod table;
pub mod terminal;
mod theme;
mod update;
mod view;

use crossterm::event::{Event, EventStream, KeyEventKind};
use futures_util::StreamExt;
use std::process::ExitCode;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use bistro_common::clock::{Clock, sleep_until};

use crate::client::Client;
use crate::ended_by_signal;
use state::State;
use terminal::Terminal;
use update::{Message, update};

/// Messages on their way to the screen; who has more waits.
const MESSAGES_MAX: usize = 256;
/// What comes in between is drawn together.
const FRAME: Duration = Duration::from_millis(33);
/// Ages and clocks move at this pace.
const SECOND: Duration = Duration::from_secs(1);

/// Runs until the user leaves or a signal ends it. The terminal is as before then.
pub async fn run(client: Client, read_only: bool) -> anyhow::Result<ExitCode> {
    let colour = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let mut state = State::new(client.cell.name().to_owned(), read_only, colour);
    let mut terminal = Terminal::open()?;
    state.size = terminal.size()?;
    let clock = Clock::start();
    update(&mut state, Message::Time(clock.now()));
    terminal.draw(|frame| view::draw(&state, frame))?;

    let (sender, mut messages) = mpsc::channel(MESSAGES_MAX);
    let (wants, wanted) = watch::channel(state.wants());
    let (in_sync, synced) = watch::channel(false);
    let _feed = feed::start(&client, &wanted, &synced, &sender);
    let mut input = EventStream::new();
    let mut seconds = tokio::time::interval(SECOND);
    let ended = ended_by_signal();
    tokio::pin!(ended);
    let mut draw_at: Option<Instant> = None;
    while !state.quit {
        let (message, soon) = tokio::select! {
            event = input.next() => match event {
                Some(Ok(event)) => (translate(event), true),
                // The terminal is gone.
                Some(Err(_)) | None => break,
            },
            Some(message) = messages.recv() => (Some(message), false),
            _ = seconds.tick() => (Some(Message::Time(clock.now())), false),
            () = sleep_until(draw_at) => {
                draw_at = None;
                terminal.draw(|frame| view::draw(&state, frame))?;
                continue;
            }
            () = &mut ended => break,
        };
        let Some(message) = message else { continue };
        if let Some(command) = update(&mut state, message) {
            tokio::spawn(feed::perform(client.clone(), command, sender.clone()));
        }
        wants.send_if_modified(|old| {
            let new = state.wants();
            std::mem::replace(old, new.clone()) != new
        });
        in_sync.send_replace(state.grid.in_sync);
        // A key is answered at once, news may wait for a frame.
        let at = Instant::now() + if soon { Duration::ZERO } else { FRAME };
        draw_at = Some(draw_at.map_or(at, |before| before.min(at)));
    }
    Ok(ExitCode::SUCCESS)
}

fn translate(event: Event) -> Option<Message> {
    match event {
        Event::Key(key) if key.kind != KeyEventKind::Release => Some(Message::Key(key)),
        Event::Resize(width, height) => Some(Message::Resize(width, height)),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
