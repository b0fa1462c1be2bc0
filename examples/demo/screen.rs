//! How does the demo look? Writes to standard output: headings, sentences,
//! commands with their output, and steps with the time that they took.
//!
//! No line is wider than [`WIDTH`], except one that holds a long path. Colours
//! and the live line are for terminals alone.

use std::io::{IsTerminal as _, Write as _};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;

/// Widest line.
const WIDTH: usize = 100;
/// Where the times of steps end.
const STEP_WIDTH: usize = 88;

const BOLD: &str = "1";
const DIM: &str = "2";
const GREEN: &str = "32";
const RED: &str = "31";
const CYAN: &str = "36";

/// The terminal, or the file that stands for it.
pub(crate) struct Screen {
    live: bool,
    colours: bool,
    detail: Mutex<String>,
}

impl Screen {
    pub(crate) fn new() -> Self {
        let live = std::io::stdout().is_terminal();
        let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = std::env::var("TERM").is_ok_and(|terminal| terminal == "dumb");
        Self {
            live: live && !dumb,
            colours: live && !dumb && !set("NO_COLOR"),
            detail: Mutex::default(),
        }
    }

    pub(crate) fn title(&self, title: &str, subtitle: &str) {
        self.line("");
        self.line(&self.painted(BOLD, title));
        self.line(subtitle);
    }

    pub(crate) fn heading(&self, text: &str) {
        self.line("");
        self.line(&self.painted(BOLD, text));
    }

    /// A sentence or more.
    pub(crate) fn say(&self, text: &str) {
        for line in wrapped(text, WIDTH - 2) {
            self.line(&format!("  {line}"));
        }
    }

    /// A command, as somebody would type it.
    pub(crate) fn command(&self, text: &str) {
        self.line("");
        self.line(&self.painted(CYAN, &format!("  $ {text}")));
    }

    /// Output of a command, or a table: as it is, one step further in.
    pub(crate) fn block(&self, text: &str) {
        for line in text.trim_end().lines() {
            self.line(format!("    {line}").trim_end());
        }
    }

    pub(crate) fn gap(&self) {
        self.line("");
    }

    /// A statement that was found to hold.
    pub(crate) fn holds(&self, what: &str) {
        let mut lines = wrapped(what, WIDTH - 4).into_iter();
        let first = lines.next().unwrap_or_default();
        self.line(&format!("  {} {first}", self.painted(GREEN, "✓")));
        for line in lines {
            self.line(&format!("    {line}"));
        }
    }

    /// Does something that takes a while, and says how long it took.
    pub(crate) async fn step<T>(
        &self,
        what: &str,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let started = Instant::now();
        let mut work = std::pin::pin!(work);
        let mut tick = tokio::time::interval(Duration::from_millis(200));
        let outcome = loop {
            tokio::select! {
                outcome = &mut work => break outcome,
                _ = tick.tick() => self.sign_of_life(what, started),
            }
        };
        self.set_detail(String::new());
        if self.live {
            self.write("\r\x1b[K");
        }
        let mark = match outcome {
            Ok(_) => self.painted(GREEN, "✓"),
            Err(_) => self.painted(RED, "✗"),
        };
        let seconds = format!("{:.1} s", started.elapsed().as_secs_f64());
        let room = STEP_WIDTH.saturating_sub(4 + seconds.len());
        let seconds = self.painted(DIM, &seconds);
        self.line(&format!("  {mark} {what:<room$}{seconds}"));
        outcome
    }

    /// What a running step is at.
    pub(crate) fn detail(&self, text: &str) {
        if self.live {
            self.set_detail(text.to_owned());
        } else {
            self.line(&format!("    {text}"));
        }
    }

    fn set_detail(&self, text: String) {
        *self.detail.lock().unwrap_or_else(PoisonError::into_inner) = text;
    }

    fn sign_of_life(&self, what: &str, started: Instant) {
        if !self.live {
            return;
        }
        let detail = self.detail.lock().unwrap_or_else(PoisonError::into_inner);
        let line = format!(
            "  · {what} … {:.0} s  {detail}",
            started.elapsed().as_secs_f64()
        );
        let line: String = line.chars().take(WIDTH - 1).collect();
        self.write(&format!("\r\x1b[K{line}"));
    }

    fn painted(&self, colour: &str, text: &str) -> String {
        if self.colours {
            format!("\x1b[{colour}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }

    fn line(&self, text: &str) {
        self.write(&format!("{text}\n"));
    }

    /// A reader that has gone away does not stop the demo.
    fn write(&self, text: &str) {
        let mut out = std::io::stdout().lock();
        let _ = out.write_all(text.as_bytes());
        let _ = out.flush();
    }
}

/// The text in lines of at most `width` characters, broken at blanks.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let last = lines.last_mut();
        match last {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}
