//! A console in a terminal of its own, as a person sees it: what is on the screen when, and how many
//! bytes that took.

use portable_pty::{Child, CommandBuilder, MasterPty, PtySize, native_pty_system};
use std::io::{Read, Write};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How wide and how high: that of the fixture.
pub const COLUMNS: u16 = 120;
pub const ROWS: u16 = 40;
/// Nothing takes so long unless it hangs.
const PATIENCE: Duration = Duration::from_secs(20);
/// The end of a frame.
const FRAME_END: &[u8] = b"\x1b[?2026l";

struct Screen {
    parser: vt100::Parser,
    /// The beginning of a frame whose end has not come.
    pending: Vec<u8>,
    bytes: u64,
    /// When the last whole frame was here.
    at: Instant,
}

pub struct Console {
    screen: Arc<(Mutex<Screen>, Condvar)>,
    keys: Box<dyn Write + Send>,
    child: Box<dyn Child + Send + Sync>,
    /// Hangs up when it is dropped.
    _terminal: Box<dyn MasterPty + Send>,
    /// What it remembers is here.
    _home: tempfile::TempDir,
    pub started: Instant,
}

impl Console {
    pub fn open(url: &str, args: &[&str]) -> anyhow::Result<Self> {
        let size = PtySize { rows: ROWS, cols: COLUMNS, ..PtySize::default() };
        let pair = native_pty_system().openpty(size)?;
        let mut command = CommandBuilder::new(bistro_tests::bistro());
        command.args([&["console", "--cell", "test"], args].concat());
        command.env("BISTRO_NATS_URL", url);
        command.env("TERM", "xterm-256color");
        command.env("LANG", "C.UTF-8");
        let home = tempfile::tempdir()?;
        command.env("HOME", home.path());
        command.env_remove("XDG_STATE_HOME");
        command.env_remove("XDG_CONFIG_HOME");
        let now = Instant::now();
        let parser = vt100::Parser::new(ROWS, COLUMNS, 0);
        let screen = Screen { parser, pending: Vec::new(), bytes: 0, at: now };
        let screen = Arc::new((Mutex::new(screen), Condvar::new()));
        let mut output = pair.master.try_clone_reader()?;
        let shared = screen.clone();
        std::thread::spawn(move || {
            let mut buffer = vec![0; 64 << 10];
            while let Ok(count @ 1..) = output.read(&mut buffer) {
                let (screen, changed) = &*shared;
                let mut screen = screen.lock().unwrap_or_else(PoisonError::into_inner);
                screen.bytes += count as u64;
                screen.pending.extend_from_slice(&buffer[..count]);
                // Half a frame is not looked at.
                if screen.pending.ends_with(FRAME_END) {
                    let frame = std::mem::take(&mut screen.pending);
                    screen.parser.process(&frame);
                    screen.at = Instant::now();
                    changed.notify_all();
                }
            }
        });
        let started = Instant::now();
        let child = pair.slave.spawn_command(command)?;
        let keys = pair.master.take_writer()?;
        Ok(Self { screen, keys, child, _terminal: pair.master, _home: home, started })
    }

    pub fn pid(&self) -> i32 {
        self.child.process_id().map_or(0, |pid| pid as i32)
    }

    pub fn press(&mut self, keys: &str) -> anyhow::Result<Instant> {
        let now = Instant::now();
        self.keys.write_all(keys.as_bytes())?;
        self.keys.flush()?;
        Ok(now)
    }

    /// What has come so far, frames or not.
    pub fn bytes(&self) -> u64 {
        self.screen.0.lock().unwrap_or_else(PoisonError::into_inner).bytes
    }

    /// A line of the screen, from 0.
    pub fn line(&self, number: u16) -> String {
        let screen = self.screen.0.lock().unwrap_or_else(PoisonError::into_inner);
        line(&screen.parser, number)
    }

    pub fn text(&self) -> String {
        let screen = self.screen.0.lock().unwrap_or_else(PoisonError::into_inner);
        screen.parser.screen().contents()
    }

    /// Waits until the screen is so; when that frame came.
    pub fn wait(
        &self,
        what: &str,
        is_so: impl FnMut(&vt100::Screen) -> bool,
    ) -> anyhow::Result<Instant> {
        self.wait_for(what, PATIENCE, is_so)
    }

    pub fn wait_for(
        &self,
        what: &str,
        patience: Duration,
        mut is_so: impl FnMut(&vt100::Screen) -> bool,
    ) -> anyhow::Result<Instant> {
        let deadline = Instant::now() + patience;
        let (screen, changed) = &*self.screen;
        let mut screen = screen.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if is_so(screen.parser.screen()) {
                return Ok(screen.at);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let contents = || screen.parser.screen().contents();
            anyhow::ensure!(!left.is_zero(), "waited for {what}; the screen is\n{}", contents());
            (screen, _) = changed
                .wait_timeout(screen, left)
                .map_err(|_| anyhow::anyhow!("the reader has panicked"))?;
        }
    }

    /// Waits until a line has this in it.
    pub fn wait_line(&self, number: u16, text: &str) -> anyhow::Result<Instant> {
        self.wait(text, |screen| row(screen, number).contains(text))
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        // It may have left already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn line(parser: &vt100::Parser, number: u16) -> String {
    row(parser.screen(), number)
}

pub fn row(screen: &vt100::Screen, number: u16) -> String {
    screen.rows(0, COLUMNS).nth(usize::from(number)).unwrap_or_default()
}
