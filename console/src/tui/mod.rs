//! The console: messages in, state changed by `update`, drawn by `view`. I/O is here, in `feed` and
//! in `terminal`.

mod feed;
mod grid;
mod keys;
mod list;
mod memory;
mod palette;
mod plain;
mod rates;
mod route;
pub mod settings;
mod state;
pub mod terminal;
mod theme;
mod update;
mod view;
mod wants;

use crossterm::event::{Event, EventStream, KeyEventKind, MouseButton, MouseEventKind};
use futures_util::StreamExt;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use bistro_common::clock::{Clock, sleep_until};

use crate::client::Client;
use crate::ended_by_signal;
use settings::Settings;
use state::State;
use terminal::Terminal;
use update::{Command, Message, update};
use wants::Wants;

#[cfg(test)]
pub use keys::Keymap;
pub use memory::Memory;
pub use plain::{once, plain};
pub use route::Route;
pub use state::Elsewhere;

/// Messages on their way to the screen; who has more waits.
const MESSAGES_MAX: usize = 256;
/// What comes in between is drawn together.
const FRAME: Duration = Duration::from_millis(33);
/// News seldom come alone: what follows so soon is drawn with the first.
const GATHER: Duration = Duration::from_millis(15);
/// Ages and clocks move at this pace.
const SECOND: Duration = Duration::from_secs(1);

/// Actions that are under way when somebody leaves may take so long.
const LEAVING: Duration = Duration::from_secs(5);
/// So many keys at most are answered by one frame.
const KEYS_MAX: usize = 64;

/// What the console is fed by, and how it says what it wants.
struct Feeding {
    messages: mpsc::Receiver<Message>,
    sender: mpsc::Sender<Message>,
    wants: watch::Sender<Wants>,
    in_sync: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

impl Feeding {
    fn start(client: &Client, state: &State) -> Self {
        let (sender, messages) = mpsc::channel(MESSAGES_MAX);
        let (wants, wanted) = watch::channel(state.wants());
        let (in_sync, synced) = watch::channel(false);
        let tasks = feed::start(client, &wanted, &synced, &sender);
        Self { messages, sender, wants, in_sync, tasks }
    }

    /// After the state has changed.
    fn follow(&self, state: &State) {
        self.wants.send_if_modified(|old| {
            let new = state.wants();
            std::mem::replace(old, new.clone()) != new
        });
        self.in_sync.send_if_modified(|old| {
            std::mem::replace(old, state.grid.in_sync) != state.grid.in_sync
        });
    }
}

/// When to draw: keys are answered at once, news wait for a frame, and for the link.
struct Pace {
    bytes_per_s: f64,
    key: bool,
    news: bool,
    next_news: Instant,
}

impl Pace {
    fn is_due(&self) -> bool {
        self.key || self.news && Instant::now() >= self.next_news
    }

    fn drawn(&mut self, bytes: usize) {
        (self.key, self.news) = (false, false);
        let share = Duration::from_secs_f64(bytes as f64 / self.bytes_per_s);
        self.next_news = Instant::now() + share.max(FRAME);
    }

    fn has_news(&mut self) {
        if !self.news {
            self.news = true;
            self.next_news = self.next_news.max(Instant::now() + GATHER);
        }
    }

    /// A terminal that takes long gets less.
    fn written(&mut self, took: Duration) {
        self.next_news = self.next_news.max(Instant::now() + took * 2);
    }
}

/// How a console was left.
pub struct Left {
    /// Where its user wants to go, if to another cell.
    pub to: Option<Elsewhere>,
    pub memory: Memory,
}

/// Runs until the user leaves or a signal ends it. The terminal is as before then.
pub async fn run(client: Client, settings: Settings) -> anyhow::Result<Left> {
    let (max_kbps, mouse) = (settings.max_kbps, settings.mouse);
    let mut state = settings.into_state(client.cell.name());
    let mut terminal = Terminal::open(mouse)?;
    state.size = terminal.size()?;
    let clock = Clock::start();
    update(&mut state, Message::Time(clock.now()));
    let mut pace = Pace {
        bytes_per_s: f64::from(max_kbps) * 1024.0,
        key: true,
        news: false,
        next_news: Instant::now(),
    };
    pace.drawn(terminal.draw(|frame| view::draw(&state, frame))?);

    let mut feeding = Feeding::start(&client, &state);
    let mut input = read_input();
    let mut seconds = tokio::time::interval(SECOND);
    let mut stops = signal(SignalKind::from_raw(nix::libc::SIGTSTP))?;
    let ended = ended_by_signal();
    tokio::pin!(ended);
    let mut actions = JoinSet::new();
    while !state.quit {
        if !terminal.is_busy() && pace.is_due() {
            let bytes = terminal.draw(|frame| view::draw(&state, frame))?;
            pace.drawn(bytes);
        }
        let news_at = (pace.news && !terminal.is_busy()).then_some(pace.next_news);
        let message = tokio::select! {
            biased;
            message = input.recv() => match message {
                Some(message) => {
                    pace.key = true;
                    Some(message)
                }
                // The terminal is gone.
                None => break,
            },
            () = &mut ended => break,
            _ = stops.recv() => {
                terminal.give();
                nix::sys::signal::raise(nix::sys::signal::Signal::SIGSTOP)?;
                terminal.take()?;
                pace.key = true;
                None
            }
            took = terminal.written(), if terminal.is_busy() => {
                pace.written(took);
                None
            }
            // They end before this only by a panic, which has given the terminal back already.
            Some(Err(broken)) = feeding.tasks.join_next() => return Err(broken.into()),
            Some(message) = feeding.messages.recv() => {
                pace.has_news();
                Some(message)
            }
            _ = seconds.tick() => {
                pace.has_news();
                Some(Message::Time(clock.now()))
            }
            () = sleep_until(news_at) => None,
        };
        // Keys that are there already are answered together.
        let keys: Vec<Message> =
            std::iter::from_fn(|| input.try_recv().ok()).take(KEYS_MAX).collect();
        pace.key |= !keys.is_empty();
        let settled = state.is_settled();
        for message in message.into_iter().chain(keys) {
            // What is typed after that is not for this cell.
            if state.quit {
                break;
            }
            match update(&mut state, message) {
                Some(Command::Copy(text)) => terminal.copy(&text)?,
                Some(Command::Edit(job)) => {
                    // The editor's keys are its own.
                    input.close();
                    terminal.give();
                    let edited = edit(&client, &job, &mut stops).await;
                    terminal.take()?;
                    input = read_input();
                    // Time has passed; what is said now is to be read.
                    update(&mut state, Message::Time(clock.now()));
                    let said = edited.unwrap_or_else(|error| format!("refused: {error:#}"));
                    update(&mut state, Message::Notice(said.replace('\n', "; ")));
                }
                Some(command) => {
                    actions.spawn(feed::perform(client.clone(), command, feeding.sender.clone()));
                }
                None => {}
            }
        }
        // What somebody waits for is not news.
        pace.key |= !settled && state.is_settled();
        feeding.follow(&state);
        while let Some(done) = actions.try_join_next() {
            done?;
        }
    }
    drop(terminal);
    // What was confirmed is done, and not lost because somebody was quick to leave.
    feeding.messages.close();
    let _ = tokio::time::timeout(LEAVING, actions.join_all()).await;
    Ok(Left { memory: Memory::of(&state), to: state.elsewhere })
}

/// Runs the editor. When it is stopped from the keyboard, so is this process, so that the shell gets
/// the terminal.
async fn edit(client: &Client, job: &str, stops: &mut Signal) -> anyhow::Result<String> {
    let editing = client.edit(job, "from the console".to_owned());
    tokio::pin!(editing);
    loop {
        tokio::select! {
            edited = &mut editing => return edited,
            _ = stops.recv() => nix::sys::signal::raise(nix::sys::signal::Signal::SIGSTOP)?,
        }
    }
}

fn mouse_means(kind: MouseEventKind) -> bool {
    use MouseEventKind::{Down, ScrollDown, ScrollUp};
    matches!(kind, Down(MouseButton::Left) | ScrollUp | ScrollDown)
}

/// Keys and resizes, until the terminal is gone.
fn read_input() -> mpsc::Receiver<Message> {
    let (sender, input) = mpsc::channel(KEYS_MAX);
    tokio::spawn(async move {
        let mut events = EventStream::new();
        loop {
            let event = tokio::select! {
                event = events.next() => event,
                () = sender.closed() => return,
            };
            let Some(Ok(event)) = event else { return };
            let Some(message) = translate(event) else { continue };
            if sender.send(message).await.is_err() {
                return;
            }
        }
    });
    input
}

fn translate(event: Event) -> Option<Message> {
    match event {
        Event::Key(key) if key.kind != KeyEventKind::Release => Some(Message::Key(key)),
        // A terminal tells every move of it.
        Event::Mouse(event) if mouse_means(event.kind) => Some(Message::Mouse(event)),
        Event::Paste(text) => Some(Message::Paste(text)),
        Event::Resize(width, height) => Some(Message::Resize(width, height)),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
