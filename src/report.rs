//! Everything a person reads while a step runs; the only writer of stderr.
//!
//! Lines are escaped here once, so that nothing an image or a server holds reaches a terminal
//! raw. Writing never fails a step: a log that cannot be written is not worth a build.

mod hidden;
mod progress;

use std::fmt::{Display, Write as _};
use std::io::{self, Write as _};
use std::sync::Mutex;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::workers::lock;

pub(crate) use hidden::Hidden;
pub(crate) use progress::Progress;

/// The log of one run.
pub(crate) struct Report {
    debug: bool,
    hidden: Hidden,
    /// Lines of the progress display that stand on the screen below the log.
    drawn: Mutex<usize>,
}

impl Report {
    /// With `debug` there are debug lines and no progress bars. No line shows what is `hidden`.
    pub(crate) fn new(debug: bool, hidden: Hidden) -> Self {
        Report {
            debug,
            hidden,
            drawn: Mutex::new(0),
        }
    }

    pub(crate) fn is_debug(&self) -> bool {
        self.debug
    }

    /// What its lines do not show.
    pub(crate) fn hidden(&self) -> &Hidden {
        &self.hidden
    }

    /// A line that every reader of the build log should see.
    pub(crate) fn info(&self, line: impl Display) {
        self.line("", &line);
    }

    /// Something is odd, and the step goes on.
    pub(crate) fn warn(&self, line: impl Display) {
        self.line("warning: ", &line);
    }

    /// Detail for `debug: true`; the text is only made where it is wanted.
    pub(crate) fn debug<D: Display>(&self, line: impl FnOnce() -> D) {
        if self.debug {
            self.line("debug: ", &line());
        }
    }

    /// The last line of a step that failed.
    pub(crate) fn failure(&self, line: impl Display) {
        self.line("", &line);
    }

    fn line(&self, prefix: &str, line: &dyn Display) {
        let text = printable(&self.hidden.in_text(line.to_string()));
        let mut drawn = lock(&self.drawn);
        let erase = progress::erase(*drawn);
        *drawn = 0;
        write_stderr(&format!("{erase}{prefix}{text}\n"));
    }

    /// Draws `lines` where the last drawing stands; skipped while a log line is being written, or
    /// where nobody reads, so that drawing never holds up the work.
    fn draw(&self, lines: &[String]) {
        if let Ok(mut drawn) = self.drawn.try_lock()
            && stderr_has_room()
        {
            let erase = progress::erase(*drawn);
            *drawn = lines.len();
            write_stderr(&format!("{erase}{}", lines.concat()));
        }
    }
}

/// Whether a drawing can be written at once. A pipe with room has a page, and a drawing is less.
fn stderr_has_room() -> bool {
    let stderr = io::stderr();
    let mut watched = [PollFd::new(&stderr, PollFlags::OUT)];
    // Where it cannot be told, it is written.
    !matches!(poll(&mut watched, Some(&Timespec::default())), Ok(0))
}

fn write_stderr(text: &str) {
    // A closed stderr is no reason to fail.
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

/// `text` with control characters escaped as Rust writes them (`\n`, `\u{1b}`), so that a name in
/// an image cannot move the cursor or start a line of its own.
pub(crate) fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        // Bidirectional overrides reorder what a reader sees (CVE-2021-42574); others are line ends to
        // some, or not seen at all.
        let misleads = matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{2069}' | '\u{feff}');
        if c.is_control() || misleads {
            let _ = write!(out, "{}", c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::printable;

    #[test]
    fn control_characters_are_escaped_and_letters_are_not() {
        for (text, shown) in [
            ("plain ünïcode", "plain ünïcode"),
            ("a\nb\tc\r", "a\\nb\\tc\\r"),
            ("\x1b[2J\u{7}", "\\u{1b}[2J\\u{7}"),
            ("\u{202e}txt.exe", "\\u{202e}txt.exe"),
            ("\u{9b}31m", "\\u{9b}31m"),
            ("a\u{2028}b\u{feff}", "a\\u{2028}b\\u{feff}"),
        ] {
            assert_eq!(printable(text), shown);
        }
    }
}
