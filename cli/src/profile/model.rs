//! The model of the load: users or a rate, for a time, over stages or for a number of iterations. Some keys speak
//! of the same thing; which one holds depends on where it was set.

use std::time::Duration;

use super::error::ProfileError;
use super::resolve::Resolver;
use super::types::Load;
use super::units::Span;

/// k6's longest time for a run that ends by its iterations.
const ITERATIONS_LIMIT: Duration = Duration::from_secs(600);

impl Resolver<'_> {
    /// Whether `path` was set in a layer below that of `other`, and so for another situation.
    fn is_below(&self, path: &[&str], other: &[&str]) -> bool {
        // The top layer is 0.
        self.source_of(path) > self.source_of(other)
    }

    /// Two keys that cannot both hold, said in one layer or against its order.
    fn exclusive(&self, key: &str, other: &str, why: &str) -> Result<(), ProfileError> {
        let (path, other_path) = (["load", key], ["load", other]);
        if self.is_below(&path, &other_path) {
            return Ok(());
        }
        let message = format!("cannot go with load.{other}: {why}");
        Err(self.error(&path, message, format!("take load.{key} or load.{other} away (`null` does)")))
    }

    /// Checks the model's keys against one another, and fills in what follows from them.
    pub(super) fn model(&self, load: &mut Load) -> Result<(), ProfileError> {
        if load.rate_per_s.is_some() && load.pacing.is_some() {
            self.exclusive("pacing", "rate", "a pace is a user's own, a rate is of all together")?;
            load.pacing = None;
        }
        for (key, is_set) in [("rate", load.rate_per_s.is_some()), ("pacing", load.pacing.is_some())] {
            if is_set {
                self.exclusive("think_time", key, "it says when iterations start")?;
                load.think_time = Duration::ZERO;
            }
        }
        if let Some(first) = load.stages.first() {
            let is_rate = first.is_rate;
            self.stages(load, is_rate)?;
        }
        if load.iterations.is_some() {
            if self.is_below(&["load", "duration"], &["load", "iterations"]) && load.stages.is_empty() {
                load.duration = ITERATIONS_LIMIT;
            }
            if self.is_below(&["load", "warmup"], &["load", "iterations"]) {
                load.warmup = Duration::ZERO;
            }
        }
        Ok(())
    }

    fn stages(&self, load: &mut Load, is_rate: bool) -> Result<(), ProfileError> {
        let error = |message: String, help: &str| Err(self.error(&["load", "stages"], message, help));
        if let Some(other) = load.stages.iter().find(|stage| stage.is_rate != is_rate) {
            return error(
                format!("{other} is of another kind than {}", load.stages[0]),
                "use users in all, or rates in all",
            );
        }
        if let Some(empty) = load.stages.iter().find(|stage| stage.duration.is_zero()) {
            return error(format!("{empty} has no length"), "give each stage a time above 0");
        }
        let highest = load.stages.iter().map(|stage| stage.target).max().unwrap_or(0);
        let most = if is_rate { 10_000_000 } else { 1_000_000 };
        if !(1..=most).contains(&highest) {
            return error(format!("expected a highest target of 1 to {most}, found {highest}"), "change it");
        }
        self.exclusive("duration", "stages", "the stages say how long the run is")?;
        if load.rate_per_s.is_some() {
            self.exclusive("rate", "stages", "the stages say how much load there is")?;
            load.rate_per_s = None;
        }
        if is_rate {
            if load.pacing.is_some() {
                self.exclusive("pacing", "stages", "they are rates")?;
                load.pacing = None;
            }
            self.exclusive("think_time", "stages", "they are rates, which say when iterations start")?;
            load.think_time = Duration::ZERO;
            load.rate_per_s = Some(highest);
        } else {
            self.exclusive("vus", "stages", "the stages say how many users there are")?;
            load.vus = highest;
        }
        if self.is_below(&["load", "warmup"], &["load", "stages"]) {
            load.warmup = Duration::ZERO;
        }
        let whole =
            load.stages.iter().map(|stage| stage.duration).fold(Duration::ZERO, Duration::saturating_add);
        load.duration = whole.saturating_sub(load.warmup);
        let longest = Duration::from_secs(24 * 3600);
        if load.duration.is_zero() || whole > longest {
            let message = format!(
                "they take {}; expected more than the warm-up ({}) and at most {}",
                Span(whole),
                Span(load.warmup),
                Span(longest)
            );
            return error(message, "change the stages or load.warmup");
        }
        Ok(())
    }
}
