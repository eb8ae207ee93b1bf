//! The pod's edges in the simulation: links, the ledger, and an engine that makes the same tokens from the same seed.

use super::*;

impl World {
    pub(super) fn open_pod(&mut self, session: SessionId, epoch: Epoch) -> u64 {
        let id = LinkId {
            tenant_id: self.tenant.clone(),
            session_id: session,
            session_epoch: epoch,
        };
        let served = pod::Served {
            identity: ModelIdentity {
                name: "simulated".to_owned(),
                weights_sha256: Hash::of(b"weights"),
                build_sha256: Hash::of(b"build"),
            },
            context_limit: 4096,
        };
        let link = pod::LinkSession::new(id, self.keys.clone(), Arc::new(served), 16).unwrap();
        self.next_pod += 1;
        self.pods.insert(
            self.next_pod,
            PodLink {
                session: link,
                id: session,
                reserved: false,
                generating: None,
                stepping: false,
                appends: VecDeque::new(),
                appending: false,
                closed: false,
            },
        );
        self.next_pod
    }

    pub(super) fn pod_event(&mut self, link: u64, event: pod::Event) {
        let Some(pod) = self.pods.get_mut(&link) else {
            return;
        };
        let rng = &mut self.rng;
        let actions = pod
            .session
            .handle(event, time(self.now), &mut || rng.bytes());
        for action in actions {
            let later = self.now + self.rng.below(3 * MS);
            match action {
                pod::Action::Send(message) => {
                    // In order: the link's delay is the same for all its messages.
                    self.agenda
                        .at(self.now + MS, Item::PodToGateway(link, message));
                }
                pod::Action::Prepare => self
                    .agenda
                    .at(later, Item::PodSees(link, PodEvent::Prepare)),
                pod::Action::Encode { prompt } => {
                    self.agenda
                        .at(later, Item::PodSees(link, PodEvent::Encode(prompt)));
                }
                pod::Action::Generate(job) => {
                    let most = job.params.max_tokens.max(1);
                    let count = 1 + self.rng.below(u64::from(most)) as u32;
                    self.agenda
                        .at(later, Item::PodSees(link, PodEvent::Started(count)));
                }
                pod::Action::Cancel => self.pods.get_mut(&link).unwrap().generating = None,
                pod::Action::Append(block) => {
                    let pod = self.pods.get_mut(&link).unwrap();
                    pod.appends.push_back(block);
                    if !std::mem::replace(&mut pod.appending, true) {
                        self.agenda.at(later, Item::PodAppend(link));
                    }
                }
                pod::Action::Release { .. } => self.pods.get_mut(&link).unwrap().reserved = false,
                pod::Action::Refused(reason) => panic!("the pod refused an honest frame: {reason}"),
                pod::Action::Log(line) => self.note(format!("pod: {line}")),
                pod::Action::Close(_) => self.agenda.at(self.now, Item::PodLinkLost(link)),
            }
        }
        let Some(pod) = self.pods.get_mut(&link) else {
            return;
        };
        if let Some(deadline) = pod.session.deadline() {
            self.agenda
                .at(deadline.micros().max(self.now + 1), Item::PodTick(link));
        }
        if pod.closed && pod.session.is_over() && pod.appends.is_empty() {
            self.pods.remove(&link);
        } else {
            self.step_soon(link);
        }
    }

    fn step_soon(&mut self, link: u64) {
        let Some(pod) = self.pods.get_mut(&link) else {
            return;
        };
        if pod.generating.is_some() && pod.session.wants_step() && !pod.stepping {
            pod.stepping = true;
            let at = self.now + MS + self.rng.below(40 * MS);
            self.agenda.at(at, Item::PodStep(link));
        }
    }

    pub(super) fn pod_edge(&mut self, link: u64, event: PodEvent) {
        let Some(pod) = self.pods.get_mut(&link) else {
            return;
        };
        let session = pod.id;
        match event {
            PodEvent::Prepare => {
                let taken = self
                    .pods
                    .values()
                    .any(|other| other.reserved && other.id == session);
                let event = if taken {
                    pod::Event::Unprepared(pod::Unprepared::Busy)
                } else {
                    self.pods.get_mut(&link).unwrap().reserved = true;
                    pod::Event::Prepared(Box::new(self.ledger.snapshot(&session).unwrap()))
                };
                self.pod_event(link, event);
            }
            PodEvent::Encode(prompt) => {
                let tokens = prompt.bytes().map(u32::from).collect();
                self.pod_event(link, pod::Event::Encoded(Some(tokens)));
            }
            PodEvent::Started(count) => {
                pod.generating = Some((0, count));
                self.pod_event(link, pod::Event::Started);
            }
            PodEvent::Closed => {
                pod.closed = true;
                self.pod_event(link, pod::Event::Closed);
            }
        }
    }

    pub(super) fn pod_step(&mut self, link: u64) {
        let Some(pod) = self.pods.get_mut(&link) else {
            return;
        };
        pod.stepping = false;
        let Some((step, count)) = pod.generating else {
            return;
        };
        let last = step + 1 == count;
        pod.generating = (!last).then_some((step + 1, count));
        let mut active = ExpertSet::new(2, 8);
        active.insert(0, self.rng.below(8) as usize);
        active.insert(1, self.rng.below(8) as usize);
        let output = StepOutput {
            step,
            token_id: self.rng.below(1000) as u32,
            text: format!("w{step} "),
            cut: 0,
            active,
            loaded: ExpertSet::new(2, 8),
            finished: last.then_some(FinishReason::Length),
        };
        self.pod_event(link, pod::Event::Step(output));
    }

    pub(super) fn pod_append(&mut self, link: u64) {
        let Some(pod) = self.pods.get_mut(&link) else {
            return;
        };
        let Some(block) = pod.appends.pop_front() else {
            return;
        };
        let event = match self.ledger.append(&pod.id, &block) {
            Ok(()) => pod::Event::Appended,
            Err(_) => {
                // Those after it would leave a gap.
                pod.appends.clear();
                pod::Event::AppendFailed
            }
        };
        pod.appending = !pod.appends.is_empty();
        if pod.appending {
            let at = self.now + self.rng.below(3 * MS);
            self.agenda.at(at, Item::PodAppend(link));
        }
        self.pod_event(link, event);
    }
}
