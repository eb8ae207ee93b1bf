use std::time::Duration;

use async_trait::async_trait;
use halo_cloud::{
    Failure, Image, InstanceId, InstanceState, LaunchRequest, NewVolume, VolumeId, VolumeState,
};

use super::*;
use crate::nodes::testing::{UID, at, error, instance, volume};

#[derive(Default)]
struct Listing {
    instances: Vec<Instance>,
    volumes: Vec<Volume>,
    fails: bool,
    looks: u32,
    now: i64,
}

/// A cloud that can only be listed.
#[derive(Default)]
struct Sky(Mutex<Listing>);

impl Clock for Sky {
    fn now(&self) -> Timestamp {
        at(self.0.lock().unwrap().now)
    }
}

fn not_here<T>() -> Result<T, CloudError> {
    Err(error(Failure::Invalid))
}

#[async_trait]
impl Cloud for Sky {
    async fn launch(&self, _: &LaunchRequest) -> Result<Instance, CloudError> {
        not_here()
    }
    async fn instances(&self, tags: &Tags) -> Result<Vec<Instance>, CloudError> {
        assert_eq!(tags.get(tags::CLUSTER).map(String::as_str), Some("prod"));
        let mut listing = self.0.lock().unwrap();
        listing.looks += 1;
        if listing.fails {
            return Err(error(Failure::Throttled));
        }
        Ok(listing.instances.clone())
    }
    async fn instance_by_token(&self, _: &str) -> Result<Option<Instance>, CloudError> {
        not_here()
    }
    async fn start(&self, _: &InstanceId) -> Result<(), CloudError> {
        not_here()
    }
    async fn stop(&self, _: &InstanceId) -> Result<(), CloudError> {
        not_here()
    }
    async fn terminate(&self, _: &InstanceId) -> Result<(), CloudError> {
        not_here()
    }
    async fn create_volume(&self, _: &NewVolume) -> Result<Volume, CloudError> {
        not_here()
    }
    async fn volumes(&self, _: &Tags) -> Result<Vec<Volume>, CloudError> {
        Ok(self.0.lock().unwrap().volumes.clone())
    }
    async fn attach_volume(&self, _: &VolumeId, _: &InstanceId, _: &str) -> Result<(), CloudError> {
        not_here()
    }
    async fn delete_volume(&self, _: &VolumeId) -> Result<(), CloudError> {
        not_here()
    }
    async fn resolve_image(&self, _: &Image) -> Result<String, CloudError> {
        not_here()
    }
    async fn missing_permissions(
        &self,
        _: &LaunchRequest,
        _: Option<&InstanceId>,
    ) -> Result<Vec<String>, CloudError> {
        not_here()
    }
}

fn fleet(pace: &Pace) -> (Arc<Sky>, Arc<Fleet>, mpsc::UnboundedReceiver<String>) {
    let sky = Arc::new(Sky::default());
    let (fleet, changes) = Fleet::new(sky.clone(), sky.clone(), "prod", pace);
    (sky, fleet, changes)
}

fn named(changes: &mut mpsc::UnboundedReceiver<String>) -> Vec<String> {
    std::iter::from_fn(|| changes.try_recv().ok()).collect()
}

#[tokio::test]
async fn changes_name_their_substrate_and_failures_keep_the_last_view() {
    let (sky, fleet, mut changes) = fleet(&Pace::default());
    assert_eq!(fleet.view(UID), FleetView::default());
    fleet.busy("waits", true);
    fleet.refresh().await;
    assert_eq!(named(&mut changes), ["waits"]);
    assert_eq!(fleet.view(UID).listed_at, Some(at(0)));

    {
        let mut listing = sky.0.lock().unwrap();
        listing.now = 5;
        listing.instances = vec![
            instance(1, InstanceState::Pending),
            instance(0, InstanceState::Running),
        ];
        let mut root = volume(1, "za", VolumeState::Available);
        root.tags.remove(tags::ZONE);
        listing.volumes = vec![root, volume(0, "za", VolumeState::Available)];
    }
    fleet.refresh().await;
    assert_eq!(named(&mut changes), [UID]);
    let view = fleet.view(UID);
    assert_eq!(view.listed_at, Some(at(5)));
    assert_eq!(
        (view.instances[0].id.0.as_str(), view.volumes.len()),
        ("i-0", 1)
    );
    fleet.refresh().await;
    assert!(named(&mut changes).is_empty());

    sky.0.lock().unwrap().fails = true;
    sky.0.lock().unwrap().now = 7;
    fleet.refresh().await;
    sky.0.lock().unwrap().now = 9;
    fleet.refresh().await;
    assert_eq!(named(&mut changes), ["waits"]);
    assert_eq!(fleet.view(UID), view);
    assert_eq!(fleet.trouble().map(|t| t.since), Some(at(7)));
    sky.0.lock().unwrap().fails = false;
    sky.0.lock().unwrap().instances.clear();
    sky.0.lock().unwrap().volumes.clear();
    fleet.refresh().await;
    assert_eq!(fleet.trouble(), None);
    assert_eq!(named(&mut changes), [UID, "waits"]);
}

#[tokio::test]
async fn the_pace_follows_what_moves() {
    let pace = Pace::default();
    let (sky, fleet, _changes) = fleet(&pace);
    assert_eq!(fleet.interval(), pace.fleet_busy);
    fleet.refresh().await;
    assert_eq!(fleet.interval(), pace.fleet_empty);
    sky.0.lock().unwrap().instances = vec![instance(0, InstanceState::Stopped)];
    fleet.refresh().await;
    assert_eq!(fleet.interval(), pace.fleet_steady);
    fleet.busy("u", true);
    assert_eq!(fleet.interval(), pace.fleet_busy);
    fleet.look();
    assert!(fleet.interval() < pace.fleet_busy);
    fleet.refresh().await;
    fleet.busy("u", false);
    assert_eq!(fleet.interval(), pace.fleet_steady);
}

#[tokio::test]
async fn a_look_that_is_asked_for_does_not_wait_for_the_steady_pace() {
    let pace = Pace {
        fleet_busy: Duration::from_millis(20),
        ..Pace::default()
    };
    let (sky, fleet, _changes) = fleet(&pace);
    let stop = CancellationToken::new();
    let running = tokio::spawn({
        let (fleet, stop) = (fleet.clone(), stop.clone());
        async move { fleet.run(stop).await }
    });
    for looks in 1..4 {
        let seen = async {
            while sky.0.lock().unwrap().looks < looks {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), seen)
            .await
            .unwrap();
        fleet.look();
    }
    stop.cancel();
    running.await.unwrap();
}
