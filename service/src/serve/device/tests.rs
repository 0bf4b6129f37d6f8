//! The reader between a real governor and a device that is a file in the form of a control group's, since no real one does
//! what it is told.

use std::fs;

use super::*;

struct Device {
    dir: tempfile::TempDir,
    operations: u64,
}

impl Device {
    fn new() -> Self {
        let device = Self { dir: tempfile::tempdir().unwrap(), operations: 0 };
        device.write();
        device
    }

    fn write(&self) {
        let text = format!("8:0 rbytes=0 wbytes=0 rios=7 wios={} dbytes=0 dios=0\n", self.operations);
        // Whole at any time.
        let new = self.dir.path().join("new");
        fs::write(&new, text).unwrap();
        fs::rename(new, self.dir.path().join("io.stat")).unwrap();
    }

    /// Operations of the database until `end`, as many as may be, of three of the device each.
    async fn work(&mut self, limiter: &dyn Limit, time: Duration) -> u64 {
        let (end, before) = (Instant::now() + time, self.operations);
        while tokio::time::timeout_at(end, limiter.acquire()).await.is_ok() {
            self.operations += 3;
            self.write();
        }
        (self.operations - before) / 3
    }
}

struct Running {
    limiter: Arc<Limiter>,
    metrics: Arc<Metrics>,
    shown: Arc<DeviceView>,
    _stop: tokio_util::sync::DropGuard,
}

fn start(device: &Device, bound: Option<u32>) -> Running {
    let place = Place::of_files(device.dir.path());
    let shown = DeviceView::new(Some(place.to_string()), bound);
    let plan = Plan { place: Some(Arc::new(place)), bound, operations: 100, shown: Arc::new(shown) };
    let limiter = Arc::new(plan.while_unread().into_iter().fold(Limiter::new(100), Limiter::while_unread));
    let (metrics, shown, stop) = (Arc::<Metrics>::default(), plan.shown(), CancellationToken::new());
    tokio::spawn(plan.run(Arc::clone(&limiter) as _, Arc::clone(&metrics), stop.clone()));
    Running { limiter, metrics, shown, _stop: stop.drop_guard() }
}

#[tokio::test(start_paused = true)]
async fn what_the_device_does_bounds_the_operations_of_the_database() {
    let mut device = Device::new();
    let running = start(&device, Some(90));
    assert_eq!((running.limiter.limit(), running.limiter.limited_by()), (11, LimitedBy::Unread));
    device.work(&*running.limiter, Duration::from_secs(25)).await;
    assert!((29..=30).contains(&running.limiter.limit()), "{}", running.limiter.limit());
    assert_eq!(running.limiter.limited_by(), LimitedBy::Device);
    let done = device.work(&*running.limiter, Duration::from_secs(10)).await;
    assert!((280..=301).contains(&done), "{done}");
    let stats = running.shown.stats();
    assert!(stats.iops.is_some_and(|iops| (84.0..=90.0).contains(&iops)), "{stats:?}");
    assert_eq!(
        (stats.iops_bound, stats.operations.is_some_and(|all| all > 280)),
        (Some(90), true),
        "{stats:?}"
    );
    assert!(stats.place.is_some_and(|place| place.contains(device.dir.path().to_str().unwrap())));
    assert_eq!(Some(running.metrics.device_operations_per_second.get()), stats.iops);
}

#[tokio::test(start_paused = true)]
async fn a_device_that_cannot_be_read_any_more_leaves_half_until_it_can_again() {
    let mut device = Device::new();
    let running = start(&device, Some(90));
    device.work(&*running.limiter, Duration::from_secs(25)).await;
    let before = running.limiter.limit();
    fs::rename(device.dir.path(), device.dir.path().with_extension("gone")).unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    let after = running.limiter.limit();
    assert!((14..=15).contains(&after), "{after} of {before}");
    assert_eq!(running.limiter.limited_by(), LimitedBy::Unread);
    assert_eq!(running.shown.stats().iops, None);
    assert!(running.metrics.device_operations_per_second.get().is_nan());
    assert!(running.metrics.device_read_failures.get() > 100);
    fs::rename(device.dir.path().with_extension("gone"), device.dir.path()).unwrap();
    device.work(&*running.limiter, Duration::from_secs(20)).await;
    assert!(running.limiter.limit() >= 29, "{}", running.limiter.limit());
    assert_eq!(running.limiter.limited_by(), LimitedBy::Device);
}

#[tokio::test(start_paused = true)]
async fn without_a_bound_the_device_is_shown_and_limits_nothing() {
    let mut device = Device::new();
    let running = start(&device, None);
    device.work(&*running.limiter, Duration::from_secs(5)).await;
    assert_eq!((running.limiter.limit(), running.limiter.limited_by()), (100, LimitedBy::Operations));
    let stats = running.shown.stats();
    assert!(stats.iops.is_some_and(|iops| (280.0..=301.0).contains(&iops)), "{stats:?}");
    assert_eq!(stats.iops_bound, None);
}
