//! Facts of the agents that made a load: a row each, and what spoils the measurement.

use std::time::Duration;

use crate::agent::AgentRun;
use crate::report::Agent;

/// Agents that start further apart than this make a load that nobody asked for.
const MAX_UNCERTAINTY: Duration = Duration::from_millis(100);

/// An agent's row in the report.
pub(super) fn row(agent: &AgentRun) -> Agent {
    let measured = agent.recording.as_ref();
    let rate = measured.map_or(0.0, |recording| recording.requests as f64 / recording.measured.as_secs_f64());
    Agent {
        name: agent.name.clone(),
        address: agent.address.clone(),
        vus: agent.users,
        requests: measured.map_or(0, |recording| recording.requests),
        rate: if rate.is_finite() { rate } else { 0.0 },
        busiest_thread: measured.map_or(0.0, |recording| recording.busiest_thread),
        lag_ms_p99: measured
            .filter(|recording| !recording.trends.lag.is_empty())
            .map(|recording| recording.trends.lag.value_at_quantile(0.99) as f64 / 1000.0),
        clock_offset_ms: agent.clock_offset_nanos as f64 / 1e6,
        clock_uncertainty_ms: agent.clock_uncertainty.as_secs_f64() * 1000.0,
        late_ms: agent.late.as_secs_f64() * 1000.0,
        memory_peak_bytes: measured.map_or(0, |recording| recording.max_rss_bytes),
        problem: agent.problem.clone(),
    }
}

/// What spoils the measurement on any of the agents beyond the checks that every generator passes; it is named.
pub(super) fn validity(agents: &[AgentRun]) -> Vec<String> {
    let mut problems = Vec::new();
    for agent in agents {
        let name = format!("agent {} ({})", agent.name, agent.address);
        if let Some(problem) = &agent.problem {
            problems.push(format!("{name} failed, and its {} users are missing: {problem}", agent.users));
        }
        let missed = agent.clock_uncertainty + agent.late;
        if missed > MAX_UNCERTAINTY {
            problems.push(format!(
                "{name} may have missed the common start by {:.0} ms, more than {} ms: its answers take too long, or it has too much to do; run the coordinator nearer to it, and nothing else on it",
                missed.as_secs_f64() * 1000.0,
                MAX_UNCERTAINTY.as_millis()
            ));
        }
    }
    problems
}

/// Why the ledger is not whole, if it is not: what the lost users wrote cannot be told from what nobody did.
pub(super) fn missing(agents: &[AgentRun]) -> Option<String> {
    let lost: Vec<_> =
        agents.iter().filter(|agent| agent.recording.is_none()).map(|agent| &*agent.address).collect();
    (!lost.is_empty()).then(|| format!("nobody knows what the users of {} were promised", lost.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agent(uncertainty_ms: u64, problem: Option<&str>) -> AgentRun {
        AgentRun {
            name: "node".to_owned(),
            address: "10.0.0.1:7420".to_owned(),
            users: 5,
            clock_offset_nanos: -1_500_000,
            clock_uncertainty: Duration::from_millis(uncertainty_ms),
            late: Duration::ZERO,
            recording: None,
            problem: problem.map(str::to_owned),
        }
    }

    #[test]
    fn a_lost_agent_and_a_slow_line_spoil_the_measurement() {
        let agents = [agent(100, None), agent(101, None), agent(0, Some("no answer in time"))];
        let problems = validity(&agents);
        assert_eq!(problems.len(), 2, "{problems:?}");
        assert!(problems[0].contains("by 101 ms"), "{problems:?}");
        assert!(problems[1].contains("its 5 users are missing: no answer in time"), "{problems:?}");
        assert!(problems.iter().all(|problem| problem.starts_with("agent node (10.0.0.1:7420)")));
        assert!(missing(&agents).unwrap().contains("10.0.0.1:7420"));
        assert_eq!(missing(&[]), None);
        let row = row(&agents[2]);
        assert_eq!((row.vus, row.clock_offset_ms, row.lag_ms_p99), (5, -1.5, None));
    }
}
