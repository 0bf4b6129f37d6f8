//! The control on simulated devices, with the real governor between them.

use super::*;
use crate::worker::governor::Governor;
use proptest::prelude::*;

const MS: Duration = Duration::from_millis(1);

/// A device, a greedy worker under the governor, and neighbours.
struct Simulation {
    steering: Steering,
    governor: Governor,
    now: Duration,
    /// Device operations for each database operation.
    cost: u64,
    /// How long after its start a database operation reaches the device.
    delay: Duration,
    /// Of neighbours, a second.
    neighbours: u64,
    is_demanded: bool,
    can_read: bool,
    device: u64,
    started: u64,
    due: VecDeque<Duration>,
    /// When the device did how many.
    done: VecDeque<(Duration, u64)>,
}

impl Simulation {
    fn new(bound: u32, operations: u32, cost: u64) -> Self {
        let steering = Steering::new(bound, operations);
        let mut governor = Governor::new(operations);
        governor.set_limit(steering.limit());
        Self {
            steering,
            governor,
            now: Duration::ZERO,
            cost,
            delay: 20 * MS,
            neighbours: 0,
            is_demanded: true,
            can_read: true,
            device: 0,
            started: 0,
            due: VecDeque::new(),
            done: VecDeque::new(),
        }
    }

    fn on_device(&mut self, count: u64) {
        if count > 0 {
            self.device += count;
            self.done.push_back((self.now, count));
        }
    }

    /// Lets time pass by the millisecond; returns the most device operations within any second of it, those before it
    /// counted in.
    fn run(&mut self, time: Duration) -> u64 {
        let (end, mut most) = (self.now + time, 0);
        while self.now < end {
            self.now += MS;
            let millis = self.now.as_millis() as u64;
            self.on_device(self.neighbours * millis / 1000 - self.neighbours * (millis - 1) / 1000);
            if self.is_demanded && self.governor.take(self.now).is_ok() {
                self.started += 1;
                self.due.push_back(self.now + self.delay);
            }
            while self.due.front().is_some_and(|due| *due <= self.now) {
                self.due.pop_front();
                self.on_device(self.cost);
            }
            if millis.is_multiple_of(INTERVAL.as_millis() as u64) {
                if self.can_read {
                    self.steering.sample(self.now, self.device, self.started);
                } else {
                    self.steering.lost_sight();
                }
                self.governor.set_limit(self.steering.limit());
            }
            while self.done.front().is_some_and(|(at, _)| self.now - *at >= Duration::from_secs(1)) {
                self.done.pop_front();
            }
            most = most.max(self.done.iter().map(|(_, count)| count).sum());
        }
        most
    }

    fn run_s(&mut self, seconds: u64) -> u64 {
        self.run(Duration::from_secs(seconds))
    }
}

#[test]
fn three_for_one_settle_at_a_third_and_no_second_is_above_the_bound() {
    for delay in [0, 20, 100, 240] {
        let mut simulation = Simulation::new(90, 100, 3);
        simulation.delay = delay * MS;
        assert!(simulation.run_s(1) <= 90, "it begins below the bound, too");
        assert!(simulation.run_s(20) <= 90, "on its way");
        assert_eq!(simulation.steering.limit(), 30, "a delay of {delay} ms");
        for _ in 0..60 {
            assert!(simulation.run_s(1) <= 90, "a delay of {delay} ms");
            assert_eq!(simulation.steering.limit(), 30, "it stays there");
        }
        let per_second = simulation.steering.device_per_second().unwrap();
        assert!((87.0..=90.0).contains(&per_second), "{per_second}");
    }
}

#[test]
fn other_costs_are_found_too_within_a_share_of_the_bound() {
    for (bound, operations, cost) in [
        (90, 100, 1),
        (91, 100, 3),
        (100, 100, 7),
        (1000, 1000, 3),
        (120, 100, 40),
        (3000, 100, 7),
        (20, 100, 3),
    ] {
        let mut simulation = Simulation::new(bound, operations, cost);
        simulation.run_s(40);
        let ideal = (u64::from(bound) / cost).min(u64::from(operations));
        let mut above = 0;
        for _ in 0..60 {
            above += u64::from(simulation.run_s(1) > u64::from(bound));
        }
        let limit = u64::from(simulation.steering.limit());
        // One that does not fit may be tried, and one too few is what a single operation more in a second makes of it.
        assert!(
            limit <= ideal + 1 && limit + 1 + ideal / 10 >= ideal,
            "{limit} instead of {ideal} ({bound}, {cost})"
        );
        assert!(above <= 8, "{above} of 60 s were above {bound} at {cost} an operation");
    }
}

#[test]
fn one_operation_is_always_let_through_however_dear_it_is() {
    let mut simulation = Simulation::new(10, 100, 50);
    simulation.run_s(30);
    let before = simulation.started;
    simulation.run_s(10);
    assert_eq!((simulation.steering.limit(), simulation.started - before), (1, 10));
}

#[test]
fn nothing_on_the_device_leaves_the_database_its_own_limit() {
    let mut simulation = Simulation::new(100, 50, 0);
    simulation.run_s(20);
    assert_eq!(simulation.steering.limit(), 50);
}

#[test]
fn a_neighbour_takes_its_part_at_once_and_gives_it_back_slowly() {
    let mut simulation = Simulation::new(90, 100, 3);
    simulation.run_s(30);
    simulation.neighbours = 45;
    simulation.run_s(3);
    assert!(simulation.run_s(60) <= 90 + 3, "after three seconds they share the bound");
    let limit = simulation.steering.limit();
    assert!((13..=15).contains(&limit), "{limit}: 45 are left, for 15");
    simulation.neighbours = 0;
    simulation.run_s(1);
    assert!(simulation.steering.limit() < 25, "not at once: {}", simulation.steering.limit());
    assert!(simulation.run_s(20) <= 90);
    assert_eq!(simulation.steering.limit(), 30);
}

#[test]
fn a_device_that_is_late_is_no_reason_for_a_second_cut() {
    let mut simulation = Simulation::new(90, 100, 3);
    simulation.delay = 240 * MS;
    simulation.run_s(30);
    simulation.neighbours = 45;
    let mut lowest = u32::MAX;
    for _ in 0..16 {
        simulation.run(INTERVAL);
        lowest = lowest.min(simulation.steering.limit());
    }
    assert!((12..=15).contains(&lowest), "{lowest}: 45 are left, for 15");
}

#[test]
fn a_neighbour_that_takes_all_leaves_one_a_second_and_the_rest_comes_back() {
    let mut simulation = Simulation::new(90, 100, 3);
    simulation.run_s(30);
    simulation.neighbours = 200;
    simulation.run_s(2);
    assert_eq!(simulation.steering.limit(), 1);
    let before = simulation.started;
    simulation.run_s(60);
    assert_eq!(simulation.started - before, 60, "it goes on");
    simulation.neighbours = 0;
    simulation.run_s(40);
    assert_eq!(simulation.steering.limit(), 30);
}

#[test]
fn what_a_neighbour_leaves_is_found_even_if_it_was_always_there() {
    let mut simulation = Simulation::new(90, 100, 3);
    simulation.neighbours = 60;
    // One operation a second: almost all that the device does is done for others.
    simulation.governor.set_limit(1);
    simulation.is_demanded = false;
    for _ in 0..120 {
        simulation.is_demanded = true;
        simulation.run(20 * MS);
        simulation.is_demanded = false;
        simulation.run(980 * MS);
    }
    simulation.is_demanded = true;
    simulation.run_s(120);
    let limit = simulation.steering.limit();
    assert!((8..=10).contains(&limit), "{limit}: 30 are left, for 10");
}

#[test]
fn after_a_rest_a_crowd_does_not_break_the_bound() {
    let mut simulation = Simulation::new(90, 100, 3);
    simulation.run_s(30);
    simulation.is_demanded = false;
    simulation.run_s(60);
    assert_eq!(
        simulation.steering.limit(),
        30,
        "nobody asked for more, so nobody knows whether more would fit"
    );
    simulation.neighbours = 30;
    simulation.run_s(5);
    assert_eq!(simulation.steering.limit(), 20, "as many as fit beside the neighbour, before they come");
    simulation.is_demanded = true;
    assert!(simulation.run_s(20) <= 91);
}

#[test]
fn a_burst_of_a_checkpoint_passes() {
    let mut simulation = Simulation::new(100, 100, 2);
    simulation.run_s(30);
    for _ in 0..3 {
        simulation.neighbours = 400;
        simulation.run_s(3);
        assert_eq!(simulation.steering.limit(), 1);
        simulation.neighbours = 0;
        simulation.run_s(57);
        let limit = simulation.steering.limit();
        assert!((48..=50).contains(&limit), "{limit}");
    }
}

#[test]
fn what_cannot_be_read_any_more_halves_the_limit_once() {
    let mut simulation = Simulation::new(90, 100, 3);
    simulation.run_s(30);
    simulation.can_read = false;
    simulation.run_s(60);
    assert_eq!((simulation.steering.limit(), simulation.steering.device_per_second()), (15, None));
    simulation.can_read = true;
    simulation.run_s(1);
    assert_eq!(simulation.steering.limit(), 15, "not before it has seen a second");
    assert!(simulation.run_s(20) <= 90);
    assert_eq!(simulation.steering.limit(), 30);
    simulation.can_read = false;
    simulation.run(300 * MS);
    assert_eq!(simulation.steering.limit(), 15);
}

#[test]
fn counters_that_begin_anew_change_nothing() {
    let mut simulation = Simulation::new(90, 100, 3);
    simulation.run_s(30);
    simulation.device = 0;
    assert!(simulation.run_s(5) <= 90);
    assert_eq!(simulation.steering.limit(), 30);
    simulation.started = 0;
    simulation.run_s(5);
    assert_eq!(simulation.steering.limit(), 30);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_counters_leave_a_limit_within_bounds(
        bound in 0..2000_u32,
        operations in 0..2000_u32,
        samples in proptest::collection::vec((0..5000_u64, prop_oneof![0..300_u64, Just(u64::MAX)], 0..100_u64, 0..20_u8), 1..100),
    ) {
        let mut steering = Steering::new(bound, operations);
        let (mut now, mut device, mut started) = (Duration::ZERO, 0_u64, 0_u64);
        for (millis, done, operated, event) in samples {
            now += Duration::from_millis(millis);
            device = if event == 0 { done } else { device.saturating_add(done) };
            started = if event == 1 { operated } else { started + operated };
            let before = steering.limit();
            if event == 2 {
                steering.lost_sight();
                prop_assert!(steering.limit() <= before);
            } else {
                steering.sample(now, device, started);
                if steering.device_per_second().is_some_and(|done| done > f64::from(bound.max(1))) {
                    prop_assert!(steering.limit() <= before, "above the bound it never grows");
                }
            }
            prop_assert!((1..=operations.max(1)).contains(&steering.limit()));
        }
    }

    #[test]
    fn a_device_without_neighbours_is_kept_at_its_bound(bound in 20..500_u32, cost in 1..8_u64, delay in 0..250_u64) {
        let mut simulation = Simulation::new(bound, 1000, cost);
        simulation.delay = Duration::from_millis(delay);
        simulation.run_s(30);
        let most = simulation.run_s(30);
        let ideal = u64::from(bound) / cost;
        prop_assert!(most <= u64::from(bound) + u64::from(bound) / 50 + cost, "{most} above {bound}");
        prop_assert!(u64::from(simulation.steering.limit()) >= ideal * 9 / 10, "{} of {ideal}", simulation.steering.limit());
    }
}
