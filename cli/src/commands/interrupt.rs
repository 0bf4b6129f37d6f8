//! Ctrl-C: the first one ends the load early and still writes a report, the second one gives up waiting.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// What the user has asked for so far.
#[derive(Clone, Default)]
pub(super) struct Interrupt {
    /// After the first signal.
    pub(super) stop: Arc<AtomicBool>,
    /// After the second one: no more waiting for a drain or an audit.
    pub(super) abandon: CancellationToken,
}

impl Interrupt {
    /// Starts to listen; must be called within the runtime.
    pub(super) fn listen() -> anyhow::Result<Self> {
        let mut interrupts = signal(SignalKind::interrupt()).context("cannot listen for Ctrl-C")?;
        let mut terminations = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
        let interrupt = Self::default();
        let Self { stop, abandon } = interrupt.clone();
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    _ = interrupts.recv() => {}
                    _ = terminations.recv() => {}
                }
                if stop.swap(true, Ordering::Relaxed) {
                    abandon.cancel();
                } else {
                    eprintln!("\ninterrupted: ending early with what there is; once more to stop waiting");
                }
            }
        });
        Ok(interrupt)
    }

    pub(super) fn requested(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}
