//! The terminal: taken over as a whole, and given back as it was, whatever happens.
//!
//! A frame is drawn into memory and written by a thread of its own, one at a time: a terminal that
//! is slow to read holds up neither keys nor news, and never shows more than one frame that is old.

use crossterm::clipboard::CopyToClipboard;
use crossterm::cursor::{Hide, Show};
use crossterm::event::{
    DisableBracketedPaste, DisableMouseCapture, EnableBracketedPaste, EnableMouseCapture,
};
use crossterm::terminal::{
    BeginSynchronizedUpdate, EndSynchronizedUpdate, EnterAlternateScreen, LeaveAlternateScreen,
    disable_raw_mode, enable_raw_mode,
};
use crossterm::{execute, queue};
use ratatui::Frame;
use ratatui::backend::CrosstermBackend;
use std::fs::OpenOptions;
use std::io::{IsTerminal, Write, stdout};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Once, PoisonError, TryLockError};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// Where standard error was before it was diverted, and where it goes now.
static STDERR: Mutex<Option<(OwnedFd, PathBuf)>> = Mutex::new(None);
/// The screen is taken: frames may be written to it.
static TAKEN: AtomicBool = AtomicBool::new(false);
/// Held while a frame is written, so that none comes after the screen was given back.
static WRITING: Mutex<()> = Mutex::new(());
/// The last frame may take so long when the console leaves.
const LAST_FRAME: Duration = Duration::from_secs(1);

/// Sends standard error to a file while the screen is taken: a warning in the middle of it would
/// spoil it. Panics are shown all the same, since the terminal is restored first.
pub fn divert_stderr(path: &Path) -> std::io::Result<()> {
    let mut saved = STDERR.lock().unwrap_or_else(PoisonError::into_inner);
    if saved.is_none() {
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
        let before = rustix::io::fcntl_dupfd_cloexec(std::io::stderr(), 3)?;
        *saved = Some((before, path.to_owned()));
        rustix::stdio::dup2_stderr(file)?;
    }
    Ok(())
}

/// Returns where it went meanwhile.
fn return_stderr() -> Option<PathBuf> {
    let (before, path) = STDERR.lock().unwrap_or_else(PoisonError::into_inner).take()?;
    // What cannot be said there cannot be said at all.
    let _ = rustix::stdio::dup2_stderr(before);
    Some(path)
}

/// What ratatui writes, until it is a whole frame.
#[derive(Clone, Default)]
struct Pending(Arc<Mutex<Vec<u8>>>);

impl Pending {
    fn take(&self) -> Vec<u8> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Write for Pending {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

type Screen = ratatui::Terminal<CrosstermBackend<Pending>>;

/// The thread that writes.
struct Output {
    frames: std::sync::mpsc::SyncSender<Vec<u8>>,
    /// How long each frame took.
    written: mpsc::UnboundedReceiver<Duration>,
    /// Frames that are not written yet.
    unwritten: u32,
}

impl Output {
    fn start() -> Self {
        let (frames, queue) = std::sync::mpsc::sync_channel::<Vec<u8>>(1);
        let (done, written) = mpsc::unbounded_channel();
        std::thread::spawn(move || {
            for frame in queue {
                let began = Instant::now();
                let writing = WRITING.lock().unwrap_or_else(PoisonError::into_inner);
                if TAKEN.load(Ordering::SeqCst) {
                    // A terminal that is gone is noticed by who reads its keys.
                    let _ = stdout().write_all(&frame).and_then(|()| stdout().flush());
                }
                drop(writing);
                if done.send(began.elapsed()).is_err() {
                    return;
                }
            }
        });
        Self { frames, written, unwritten: 0 }
    }

    fn send(&mut self, bytes: Vec<u8>) {
        self.unwritten += 1;
        // The thread ends only after this.
        let _ = self.frames.send(bytes);
    }
}

pub struct Terminal {
    /// `None` only while it is dropped.
    screen: Option<Screen>,
    pending: Pending,
    /// What is written when nothing has changed.
    nothing: Vec<u8>,
    /// For the clipboard, with the next frame.
    copied: Vec<u8>,
    mouse: bool,
    /// Where standard error went before the terminal was given back.
    stderr: Option<PathBuf>,
    output: Output,
}

/// Is there a terminal to take?
pub fn is_possible() -> bool {
    stdout().is_terminal() && std::io::stdin().is_terminal()
}

impl Terminal {
    pub fn open(mouse: bool) -> anyhow::Result<Self> {
        anyhow::ensure!(
            is_possible(),
            "the console needs a terminal; for scripts there are `bistro console --once`, \
             `bistro status`, `bistro tasks`, ..."
        );
        divert_stderr(Path::new("/dev/null"))?;
        restore_on_panic();
        // Whether there is colour is decided by the theme, not by each widget.
        crossterm::style::force_color_output(true);
        enter(mouse).inspect_err(|_| restore())?;
        let pending = Pending::default();
        let mut screen = match ratatui::Terminal::new(CrosstermBackend::new(pending.clone())) {
            Ok(screen) => screen,
            Err(error) => {
                restore();
                return Err(error.into());
            }
        };
        pending.take();
        screen.flush()?;
        let nothing = pending.take();
        let (copied, stderr) = (Vec::new(), None);
        let screen = Some(screen);
        Ok(Self { screen, pending, nothing, copied, mouse, stderr, output: Output::start() })
    }

    pub fn size(&mut self) -> anyhow::Result<(u16, u16)> {
        let size = self.screen().size()?;
        Ok((size.width, size.height))
    }

    /// A frame is being written: nothing can be drawn until it is.
    pub fn is_busy(&self) -> bool {
        self.output.unwritten > 0
    }

    /// Waits until the frame is written; returns how long that took. Never, if there is none.
    pub async fn written(&mut self) -> Duration {
        match self.output.written.recv().await {
            Some(took) => {
                self.output.unwritten -= 1;
                took
            }
            None => std::future::pending().await,
        }
    }

    /// Draws what has changed, in one piece where the terminal knows how. Returns how many bytes
    /// that takes: none, and no system call, if nothing has.
    pub fn draw(&mut self, draw: impl FnOnce(&mut Frame<'_>)) -> anyhow::Result<usize> {
        let screen = self.screen();
        screen.autoresize()?;
        draw(&mut screen.get_frame());
        screen.flush()?;
        screen.swap_buffers();
        let changes = self.pending.take();
        if changes == self.nothing && self.copied.is_empty() {
            return Ok(0);
        }
        let mut frame = std::mem::take(&mut self.copied);
        queue!(frame, BeginSynchronizedUpdate)?;
        frame.extend(changes);
        queue!(frame, EndSynchronizedUpdate)?;
        let bytes = frame.len();
        self.output.send(frame);
        Ok(bytes)
    }

    /// To the clipboard of the terminal, wherever it is, with the next frame.
    pub fn copy(&mut self, text: &str) -> anyhow::Result<()> {
        queue!(self.copied, CopyToClipboard::to_clipboard_from(text))?;
        Ok(())
    }

    /// Gives the terminal back until [`Terminal::take`].
    pub fn give(&mut self) {
        self.finish();
        leave();
        self.stderr = return_stderr();
    }

    /// Takes the terminal again.
    pub fn take(&mut self) -> anyhow::Result<()> {
        if let Some(path) = self.stderr.take() {
            divert_stderr(&path)?;
        }
        enter(self.mouse)?;
        // Nothing of what was drawn is there any more.
        let backend = CrosstermBackend::new(self.pending.clone());
        self.screen = Some(ratatui::Terminal::new(backend)?);
        Ok(())
    }

    /// Lets the last frame go out, if the terminal reads it.
    fn finish(&mut self) {
        let deadline = Instant::now() + LAST_FRAME;
        while self.is_busy() && Instant::now() < deadline {
            match self.output.written.try_recv() {
                Ok(_) => self.output.unwritten -= 1,
                Err(_) => std::thread::sleep(Duration::from_millis(1)),
            }
        }
    }

    fn screen(&mut self) -> &mut Screen {
        self.screen.as_mut().expect("the screen is there until it is dropped")
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.finish();
        // It complains to standard error if the terminal is gone, which would be a panic if that
        // were back already.
        self.screen = None;
        restore();
    }
}

fn enter(mouse: bool) -> std::io::Result<()> {
    enable_raw_mode()?;
    TAKEN.store(true, Ordering::SeqCst);
    if mouse {
        execute!(stdout(), EnableMouseCapture)?;
    }
    // What is pasted is text, and never keys that do something.
    execute!(stdout(), EnterAlternateScreen, EnableBracketedPaste, Hide)
}

/// Does as much as it can; there is nobody to tell what failed. Once is enough: a panic does it, and
/// then what unwinds from it.
fn leave() {
    if !TAKEN.swap(false, Ordering::SeqCst) {
        return;
    }
    let _ = disable_raw_mode();
    // A frame that is being written comes first. A terminal that does not read takes nothing else
    // either, and whoever writes to it waits for it.
    let deadline = Instant::now() + LAST_FRAME;
    let _writing = loop {
        match WRITING.try_lock() {
            Ok(writing) => break writing,
            Err(TryLockError::Poisoned(error)) => break error.into_inner(),
            Err(TryLockError::WouldBlock) if Instant::now() >= deadline => return,
            Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(1)),
        }
    };
    let _ = execute!(
        stdout(),
        EndSynchronizedUpdate,
        DisableMouseCapture,
        DisableBracketedPaste,
        LeaveAlternateScreen,
        Show
    );
}

fn restore() {
    leave();
    return_stderr();
}

fn restore_on_panic() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            restore();
            before(panic);
        }));
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use portable_pty::{CommandBuilder, PtySize, native_pty_system};
    use std::io::Read;

    const THIS_TEST: &str = "tui::terminal::tests::a_panic_gives_the_terminal_back_and_is_seen";
    /// Set for the process that is to panic, in a terminal of its own.
    const PANICS: &str = "BISTRO_TEST_PANICS";

    fn panic_with_the_terminal() -> ! {
        let mut terminal = Terminal::open(true).unwrap();
        terminal.draw(|frame| frame.render_widget("on the screen", frame.area())).unwrap();
        terminal.finish();
        // This one may be on its way when the terminal is given back.
        terminal.draw(|frame| frame.render_widget("and off it again", frame.area())).unwrap();
        panic!("on purpose");
    }

    #[test]
    fn a_panic_gives_the_terminal_back_and_is_seen() {
        if std::env::var_os(PANICS).is_some() {
            panic_with_the_terminal();
        }
        let pair = native_pty_system().openpty(PtySize::default()).unwrap();
        let before = pair.master.get_termios().unwrap();
        let mut command = CommandBuilder::new(std::env::current_exe().unwrap());
        command.env("RUST_BACKTRACE", "0");
        command.env(PANICS, "1");
        command.args(["--exact", THIS_TEST, "--nocapture"]);
        let mut child = pair.slave.spawn_command(command).unwrap();
        let mut output = pair.master.try_clone_reader().unwrap();
        let reader = std::thread::spawn(move || {
            let mut bytes = Vec::new();
            // A terminal that nobody holds any more is an error, not an end.
            let _ = output.read_to_end(&mut bytes);
            bytes
        });
        assert!(!child.wait().unwrap().success());
        assert_eq!(pair.master.get_termios().unwrap().local_flags, before.local_flags);
        drop(pair);
        let bytes = reader.join().unwrap();
        let mut screen = vt100::Parser::default();
        screen.process(&bytes);
        let screen = screen.screen();
        assert!(!screen.alternate_screen() && !screen.hide_cursor() && !screen.bracketed_paste());
        assert_eq!(screen.mouse_protocol_mode(), vt100::MouseProtocolMode::None);
        assert!(screen.contents().contains("on purpose"), "{}", screen.contents());
        let was_there = bytes.windows(6).any(|window| window == b"screen");
        assert!(was_there, "{}", String::from_utf8_lossy(&bytes));
        assert!(!screen.contents().contains("off it"), "{}", screen.contents());
    }
}
