//! Makes the load of an experiment, in this process or on agents.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, anyhow};

use super::display::Display;
use super::experiment::Experiment;
use super::live::LiveJudge;
use crate::agent::{AgentRun, Conducted, Crowd};
use crate::load::{self, Plan, Recording, Watch};
use crate::report::Aborted;

/// A load that was made.
pub(super) struct Loaded {
    pub(super) plan: Arc<Plan>,
    pub(super) recording: Recording,
    /// The criterion that ended it early.
    pub(super) aborted: Option<Aborted>,
    pub(super) agents: Vec<AgentRun>,
    /// Agents need a moment from the word to the start.
    pub(super) began: Instant,
}

impl Experiment<'_> {
    /// Makes the load, here or on agents.
    pub(super) async fn load(&self, plan: Plan) -> anyhow::Result<Loaded> {
        match &self.crowd {
            None => self.load_here(plan).await,
            Some(crowd) => self.load_there(plan, crowd).await,
        }
    }

    async fn load_there(&self, plan: Plan, crowd: &Crowd) -> anyhow::Result<Loaded> {
        let threads = self.profile.load.threads.map(|threads| threads as usize);
        let mut display = Display::new(&plan, self.folder)?;
        let mut live = LiveJudge::new(self.criteria);
        let stop = &self.interrupt.stop;
        let conducted = match &mut live {
            None => crowd.conduct(&plan, threads, stop, &mut display, None).await,
            Some(live) => {
                let trends = live.trends();
                let watch = Watch { trends: &trends, judge: &mut |running| live.judge(running) };
                crowd.conduct(&plan, threads, stop, &mut display, Some(watch)).await
            }
        };
        display.finish(conducted.is_ok());
        let Conducted { recording, agents, threads, began } = conducted?;
        let aborted = ended_early(live, &recording);
        Ok(Loaded { plan: Arc::new(Plan { threads, ..plan }), recording, aborted, agents, began })
    }

    /// The generator has threads of its own, and this one waits for them beside the control plane's tasks.
    /// The criteria that may end it are judged on the way.
    async fn load_here(&self, plan: Plan) -> anyhow::Result<Loaded> {
        let plan = Arc::new(plan);
        let began = Instant::now();
        let stop = Arc::clone(&self.interrupt.stop);
        let mut display = Display::new(&plan, self.folder)?;
        let mut live = LiveJudge::new(self.criteria);
        let shared = Arc::clone(&plan);
        let task = tokio::task::spawn_blocking(move || {
            let recording = match &mut live {
                None => load::run(&shared, &stop, &mut display, None),
                Some(live) => {
                    let trends = live.trends();
                    let watch = Watch { trends: &trends, judge: &mut |running| live.judge(running) };
                    load::run(&shared, &stop, &mut display, Some(watch))
                }
            };
            display.finish(recording.is_ok());
            (recording, live)
        });
        let (recording, live) = task.await.map_err(|error| anyhow!("the load generator failed: {error}"))?;
        let recording = recording.context("the load generator failed")?;
        let aborted = ended_early(live, &recording);
        Ok(Loaded { plan, recording, aborted, agents: Vec::new(), began })
    }
}

/// What the judge ended the load for; only what really cut it short is told.
fn ended_early(live: Option<LiveJudge>, recording: &Recording) -> Option<Aborted> {
    let aborted = live.and_then(LiveJudge::finish).filter(|_| recording.cut_short)?;
    eprintln!("{:>9} {aborted}", "stopped");
    Some(aborted)
}
