//! The terminal: taken over as a whole, and given back as it was, whatever happens.

use crossterm::cursor::Show;
use crossterm::execute;
use crossterm::terminal::{
    BeginSynchronizedUpdate, EndSynchronizedUpdate, EnterAlternateScreen, LeaveAlternateScreen,
    disable_raw_mode, enable_raw_mode,
};
use ratatui::Frame;
use ratatui::backend::CrosstermBackend;
use std::fs::OpenOptions;
use std::io::{BufWriter, IsTerminal, Stdout, stdout};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Mutex, Once, PoisonError};

/// Where standard error was before it was diverted.
static STDERR: Mutex<Option<OwnedFd>> = Mutex::new(None);

/// Sends standard error to a file while the screen is taken: a warning in the middle of it would
/// spoil it. Panics are shown all the same, since the terminal is restored first.
pub fn divert_stderr(path: &Path) -> std::io::Result<()> {
    let mut saved = STDERR.lock().unwrap_or_else(PoisonError::into_inner);
    if saved.is_none() {
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
        *saved = Some(rustix::io::fcntl_dupfd_cloexec(std::io::stderr(), 3)?);
        rustix::stdio::dup2_stderr(file)?;
    }
    Ok(())
}

fn return_stderr() {
    if let Some(saved) = STDERR.lock().unwrap_or_else(PoisonError::into_inner).take() {
        // What cannot be said there cannot be said at all.
        let _ = rustix::stdio::dup2_stderr(saved);
    }
}

type Screen = ratatui::Terminal<CrosstermBackend<BufWriter<Stdout>>>;

/// `None` only while it is dropped.
pub struct Terminal(Option<Screen>);

/// Is there a terminal to take?
pub fn is_possible() -> bool {
    stdout().is_terminal() && std::io::stdin().is_terminal()
}

impl Terminal {
    pub fn open() -> anyhow::Result<Self> {
        anyhow::ensure!(
            is_possible(),
            "the console needs a terminal; for scripts there are `bistro status`, `bistro tasks`, ..."
        );
        divert_stderr(Path::new("/dev/null"))?;
        restore_on_panic();
        // Whether there is colour is decided by the theme, not by each widget.
        crossterm::style::force_color_output(true);
        enable_raw_mode()?;
        execute!(stdout(), EnterAlternateScreen)?;
        // From here on, dropping it restores the terminal.
        let backend = CrosstermBackend::new(BufWriter::with_capacity(64 << 10, stdout()));
        Ok(Self(Some(ratatui::Terminal::new(backend)?)))
    }

    pub fn size(&mut self) -> anyhow::Result<(u16, u16)> {
        let size = self.screen().size()?;
        Ok((size.width, size.height))
    }

    /// Draws what has changed, in one piece where the terminal knows how.
    pub fn draw(&mut self, draw: impl FnOnce(&mut Frame<'_>)) -> anyhow::Result<()> {
        let screen = self.screen();
        execute!(screen.backend_mut(), BeginSynchronizedUpdate)?;
        screen.draw(draw)?;
        execute!(screen.backend_mut(), EndSynchronizedUpdate)?;
        Ok(())
    }

    fn screen(&mut self) -> &mut Screen {
        self.0.as_mut().expect("the screen is there until it is dropped")
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // It complains to standard error if the terminal is gone, which would be a panic if that
        // were back already.
        self.0 = None;
        restore();
    }
}

/// Does as much as it can; there is nobody to tell what failed.
fn restore() {
    let _ = execute!(stdout(), LeaveAlternateScreen, Show);
    let _ = disable_raw_mode();
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
