//! Progress bars: one line a blob, redrawn in place.
//!
//! Concourse renders ANSI escapes although stderr is no terminal. Whoever moves bytes draws, at
//! most ten times a second; there is no thread, and nobody waits for a drawing.

use std::io::{self, Read};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::Report;
use crate::workers::lock;

/// A build log is stored: ten drawings a second are as smooth as a reader needs.
const REDRAW: Duration = Duration::from_millis(100);

/// More lines than a screen has would scroll, and a scrolled line cannot be redrawn.
const MOST_LINES: usize = 20;

const BAR_WIDTH: u64 = 30;

/// The bars of one transfer. Dropped without [`Progress::finish`] it leaves the screen as drawn.
pub(crate) struct Progress<'a> {
    report: &'a Report,
    bars: Vec<Bar>,
    started: Instant,
    /// When the next drawing is due, in milliseconds since `started`.
    due: AtomicU64,
    drawing: Mutex<()>,
}

/// One blob's share of a transfer.
struct Bar {
    label: String,
    total: u64,
    done: AtomicU64,
    /// Nothing had to be moved.
    there: AtomicBool,
}

impl Report {
    /// Bars with these labels and numbers of bytes.
    pub(crate) fn progress(&self, bars: impl IntoIterator<Item = (String, u64)>) -> Progress<'_> {
        let bars = bars.into_iter().map(|(label, total)| Bar {
            label,
            total,
            done: AtomicU64::new(0),
            there: AtomicBool::new(false),
        });
        Progress {
            report: self,
            bars: bars.collect(),
            started: Instant::now(),
            due: AtomicU64::new(0),
            drawing: Mutex::new(()),
        }
    }
}

impl Progress<'_> {
    /// Counts what is read from `inner` for bar `at`.
    pub(crate) fn counting<R>(&self, at: usize, inner: R) -> Counting<'_, R> {
        Counting {
            inner,
            progress: self,
            at,
        }
    }

    /// `bytes` more of bar `at` are done.
    fn advance(&self, at: usize, bytes: u64) {
        if let Some(bar) = self.bars.get(at) {
            bar.done.fetch_add(bytes, Ordering::Relaxed);
            self.redraw();
        }
    }

    /// Bar `at` is full without a transfer: its bytes are there already.
    pub(crate) fn was_there(&self, at: usize) {
        if let Some(bar) = self.bars.get(at) {
            bar.done.store(bar.total, Ordering::Relaxed);
            bar.there.store(true, Ordering::Relaxed);
            self.redraw();
        }
    }

    /// Bar `at` starts again: its bytes proved wrong, or the connection is gone for good.
    pub(crate) fn restart(&self, at: usize) {
        if let Some(bar) = self.bars.get(at) {
            bar.done.store(0, Ordering::Relaxed);
        }
    }

    fn redraw(&self) {
        if self.report.is_debug() {
            return;
        }
        let now = millis(self.started.elapsed());
        if now < self.due.load(Ordering::Relaxed) {
            return;
        }
        // Somebody else is drawing: the work goes on.
        if let Ok(_drawing) = self.drawing.try_lock() {
            self.due.store(now + millis(REDRAW), Ordering::Relaxed);
            self.report.draw(&self.lines());
        }
    }

    fn lines(&self) -> Vec<String> {
        let unfinished = |bar: &&Bar| bar.done.load(Ordering::Relaxed) < bar.total;
        let mut shown: Vec<&Bar> = match self.bars.len() <= MOST_LINES {
            true => self.bars.iter().collect(),
            false => self.bars.iter().filter(unfinished).collect(),
        };
        shown.truncate(MOST_LINES);
        shown.iter().map(|bar| bar.line()).collect()
    }

    /// Ends the display with one line: `what`, bytes, seconds and rate, and how many bytes were
    /// there already.
    pub(crate) fn finish(self, what: &str) {
        let _drawing = lock(&self.drawing);
        let (mut bytes, mut there) = (0, 0);
        for bar in &self.bars {
            let sum = match bar.there.load(Ordering::Relaxed) {
                true => &mut there,
                false => &mut bytes,
            };
            *sum += bar.done.load(Ordering::Relaxed);
        }
        let seconds = self.started.elapsed().as_secs_f64();
        if !self.report.is_debug() && !self.bars.is_empty() {
            self.report.draw(&self.lines());
            // The drawing stays where it is: the last line is written below it.
            *lock(&self.report.drawn) = 0;
        }
        let rate = human((bytes as f64 / seconds.max(0.001)) as u64);
        let there = match there {
            0 => String::new(),
            there => format!("; {} there already", human(there)),
        };
        self.report.info(format!(
            "{what} {} in {seconds:.1} s ({rate}/s){there}",
            human(bytes)
        ));
    }
}

/// A reader whose bytes are progress.
pub(crate) struct Counting<'c, R> {
    inner: R,
    progress: &'c Progress<'c>,
    at: usize,
}

impl<R> Counting<'_, R> {
    pub(crate) fn into_inner(self) -> R {
        self.inner
    }
}

impl<R: Read> Read for Counting<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.progress.advance(self.at, n as u64);
        Ok(n)
    }
}

impl Bar {
    fn line(&self) -> String {
        let done = self.done.load(Ordering::Relaxed).min(self.total);
        let filled = match self.total {
            0 => BAR_WIDTH,
            total => BAR_WIDTH * done / total,
        };
        let bar: String = (0..BAR_WIDTH)
            .map(|at| if at < filled { '=' } else { ' ' })
            .collect();
        format!(
            "{} [{bar}] {}/{}\n",
            self.label,
            human(done),
            human(self.total)
        )
    }
}

/// Moves up over `lines` drawn lines and clears to the end of the screen (ECMA-48 CPL and ED).
pub(super) fn erase(lines: usize) -> String {
    match lines {
        0 => String::new(),
        n => format!("\x1b[{n}F\x1b[J"),
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Bytes in binary units, three digits.
pub(crate) fn human(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = UNITS[0];
    for next in &UNITS[1..] {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    match value < 10.0 {
        true => format!("{value:.1} {unit}"),
        false => format!("{value:.0} {unit}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_shown_in_binary_units() {
        for (bytes, shown) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (88_211_233, "84 MiB"),
            (5 << 30, "5.0 GiB"),
        ] {
            assert_eq!(human(bytes), shown);
        }
    }

    #[test]
    fn a_bar_fills_with_its_bytes_and_never_beyond() {
        let bar = Bar {
            label: "layer 1".to_owned(),
            total: 2048,
            done: AtomicU64::new(1024),
            there: AtomicBool::new(false),
        };
        assert_eq!(
            bar.line(),
            "layer 1 [===============               ] 1.0 KiB/2.0 KiB\n"
        );
        bar.done.store(9999, Ordering::Relaxed);
        assert!(bar.line().ends_with("2.0 KiB/2.0 KiB\n"));
    }
}
