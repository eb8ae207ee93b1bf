//! The gateway's edges in the simulation: opening, the device's socket, the ledger, and what relays an answer.

use super::*;

impl World {
    pub(super) fn posted(&mut self, path: &str, header: &str, body: &[u8]) {
        let answer = self.open(path, header, body);
        let (status, body) = match answer {
            Ok(answer) => (200, serde_json::to_vec(&answer).unwrap()),
            Err(status) => (status, Vec::new()),
        };
        let at = self.now + MS + self.rng.below(20 * MS);
        self.agenda.at(at, Item::PostAnswered(status, body));
    }

    /// What the gateway does for a `POST`, its checks of clock and nonce left to its own tests.
    fn open(&mut self, path: &str, header: &str, body: &[u8]) -> Result<OpenAnswer, u16> {
        let request: OpenRequest = serde_json::from_slice(body).unwrap();
        let key = self
            .keys
            .device_key(&request.tenant_id, &request.device_id, 1)
            .unwrap();
        assert!(signature_is_valid(
            &key,
            "POST",
            path,
            body,
            header.as_bytes()
        ));
        let now = time(self.now);
        let session = match path.split('/').nth(4) {
            Some(id) => id.parse().unwrap(),
            None => SessionId::from_random(self.rng.bytes()),
        };
        let epoch = Epoch::next(self.ledger.last_epoch(&session), now.seconds()).unwrap();
        let ring = self
            .keys
            .session_key(&self.tenant, &session, epoch)
            .unwrap();
        let key = ring.tier_key(Tier::Orchestrator);
        let claim = self
            .claim(ClaimKind::Epoch, session, epoch, 0)
            .sign(&key)
            .unwrap();
        let written = if path.ends_with("/epochs") {
            self.ledger.claim(claim)
        } else {
            let header = Header {
                v: V1,
                session_id: session,
                session_epoch: epoch,
                tenant_id: self.tenant.clone(),
                device_id: request.device_id,
                root_generation: 1,
                key_check_value: self.keys.root().check_value,
                demo_root: true,
                content: ContentPolicy::Sealed,
                opened_at: now,
            };
            self.ledger.open_session(header.sign(&key).unwrap(), claim)
        };
        match written {
            Ok(()) => {}
            Err(_) => return Err(503),
        }
        self.sessions.insert(session);
        self.note(format!("gateway: {session} epoch {epoch}"));
        Ok(OpenAnswer {
            session_id: session,
            session_epoch: epoch,
            root_generation: 1,
            demo_root: true,
            content: ContentPolicy::Sealed,
            tier_keys: DeviceTierKeys {
                sensor: ring.tier_key(Tier::Sensor).to_hex().to_string(),
                orchestrator: key.to_hex().to_string(),
            },
            stream: stream_path(&session, epoch),
        })
    }

    fn claim(
        &self,
        kind: ClaimKind,
        session_id: SessionId,
        session_epoch: Epoch,
        link: u32,
    ) -> Claim {
        Claim {
            v: V1,
            kind,
            session_id,
            session_epoch,
            link,
            claimed_by: "simulation".to_owned(),
            claimed_at: time(self.now),
        }
    }

    pub(super) fn connect(&mut self, path: &str, header: &str) {
        let query = path.split_once('?').unwrap().1;
        let value = |name: &str| {
            let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
            pairs.find(|(key, _)| *key == name).unwrap().1.to_owned()
        };
        let session: SessionId = value("session").parse().unwrap();
        let epoch = Epoch(value("epoch").parse().unwrap());
        let key = self
            .keys
            .session_key(&self.tenant, &session, epoch)
            .unwrap();
        let key = key.tier_key(Tier::Orchestrator);
        assert!(signature_is_valid(
            &key,
            "GET",
            path,
            b"",
            header.as_bytes()
        ));
        let claim = self
            .claim(ClaimKind::Connection, session, epoch, 0)
            .sign(&key)
            .unwrap();
        let refused = self.rng.one_in(20) || self.ledger.claim(claim).is_err();
        let at = self.now + MS + self.rng.below(20 * MS);
        let item = if refused {
            Item::ConnectFailed
        } else {
            Item::Connected(session, epoch)
        };
        self.agenda.at(at, item);
    }

    pub(super) fn connected(&mut self, session: SessionId, epoch: Epoch) {
        if self.ledger.last_epoch(&session) != Some(epoch) || self.device_wire.up {
            // The phone gave this connection up before it stood.
            return;
        }
        self.device_wire.connect();
        let ring = Keyring::new(self.keys.clone(), self.tenant.clone(), session);
        let key = self
            .keys
            .session_key(&self.tenant, &session, epoch)
            .unwrap();
        let terms = Terms {
            epoch,
            content: ContentPolicy::Sealed,
            max_tokens: 1000,
        };
        self.device = Some(Device {
            session: gateway::Session::new(
                "phone-1".parse().unwrap(),
                terms.clone(),
                ring,
                Arc::new(key.tier_key(Tier::Orchestrator)),
                16,
            ),
            id: session,
            terms,
        });
        self.phone_event(tier1::Event::GatewayConnected);
    }

    /// The device's connection breaks, or the phone closes it; what was asked goes on for whoever comes back.
    pub(super) fn cut_device(&mut self, noticed: bool) {
        if !self.device_wire.up {
            return;
        }
        self.note("the device's connection is cut");
        self.device_wire.up = false;
        self.device = None;
        self.answers
            .values_mut()
            .for_each(|answer| answer.reader = None);
        if noticed {
            self.agenda
                .at(self.now + 5 * MS, Item::DeviceLost(self.device_wire.number));
        }
    }

    pub(super) fn device_event(&mut self, wire: u64, event: gateway::Event<'_>) {
        let Some(device) = self
            .device
            .as_mut()
            .filter(|_| self.device_wire.number == wire)
        else {
            return;
        };
        for action in device.session.handle(event) {
            let later = self.now + self.rng.below(5 * MS);
            match action {
                gateway::Action::Send(message) => {
                    let arrival = self.device_wire.arrival(1, self.now, &mut self.rng);
                    self.agenda.at(arrival, Item::GatewayToPhone(wire, message));
                }
                gateway::Action::Admit(_) => {
                    self.agenda
                        .at(later, Item::GatewayEvent(wire, GatewayEvent::Admitted));
                }
                gateway::Action::Read => {
                    self.agenda
                        .at(later, Item::GatewayEvent(wire, GatewayEvent::Read));
                }
                gateway::Action::Append(blocks) => {
                    self.agenda.at(
                        later,
                        Item::GatewayEvent(wire, GatewayEvent::Append(blocks)),
                    );
                }
                gateway::Action::Ask(ask) => {
                    self.agenda
                        .at(later, Item::GatewayEvent(wire, GatewayEvent::Ask(ask)));
                }
                gateway::Action::Resume {
                    request_id,
                    from_step,
                } => {
                    let event = GatewayEvent::Resume(request_id, from_step);
                    self.agenda.at(later, Item::GatewayEvent(wire, event));
                }
                gateway::Action::Close(_) => self.agenda.at(self.now, Item::CutDevice),
                gateway::Action::Count(gateway::Count::Refused(reason)) => {
                    panic!("the gateway refused a frame of an honest phone: {reason}");
                }
                gateway::Action::Count(gateway::Count::Bundle(reason)) => {
                    panic!("the gateway refused an honest bundle: {reason}");
                }
                gateway::Action::Count(_) => {}
            }
        }
    }

    pub(super) fn gateway_edge(&mut self, wire: u64, event: GatewayEvent) {
        // Blocks that were handed over are written even if the device is gone by then.
        if let GatewayEvent::Append(blocks) = &event {
            let Some(session) = blocks.first().and_then(session_of) else {
                return;
            };
            let written = blocks
                .iter()
                .try_for_each(|block| self.ledger.append(&session, block));
            let written = written.map_err(|refused| match refused {
                Refused::Conflict | Refused::Taken => gateway::WriteError::Conflict,
                Refused::Down => gateway::WriteError::Unavailable("down".to_owned()),
            });
            return self.device_event(wire, gateway::Event::Written(written));
        }
        let Some(device) = self
            .device
            .as_ref()
            .filter(|_| self.device_wire.number == wire)
        else {
            return;
        };
        let (session, terms) = (device.id, device.terms.clone());
        match event {
            GatewayEvent::Admitted => {
                let busy = self.rng.one_in(30).then_some(gateway::Refusal {
                    code: EndCode::RateLimited,
                    retry_after_ms: Some(200),
                });
                self.device_event(wire, gateway::Event::Admitted(busy.map_or(Ok(()), Err)));
            }
            GatewayEvent::Read => {
                let evidence = self.ledger.snapshot(&session).map(Box::new);
                self.device_event(
                    wire,
                    gateway::Event::Evidence(evidence.ok_or_else(String::new)),
                );
            }
            GatewayEvent::Ask(ask) => self.ask(wire, session, &terms, ask),
            GatewayEvent::Resume(request, from) => {
                self.resume(wire, session, &terms, request, from)
            }
            GatewayEvent::Append(_) => {}
        }
    }

    fn ask(&mut self, wire: u64, session: SessionId, terms: &Terms, ask: gateway::Ask) {
        if self.answers.contains_key(&session) || self.rng.one_in(10) {
            let refusal = gateway::Refusal {
                code: EndCode::Unavailable,
                retry_after_ms: Some(300),
            };
            return self.device_event(wire, gateway::Event::Started(Err(refusal)));
        }
        let key = self
            .keys
            .session_key(&self.tenant, &session, terms.epoch)
            .unwrap();
        let mut link = ask.next_link;
        loop {
            let claim = self.claim(ClaimKind::SubstrateLink, session, terms.epoch, link);
            match self
                .ledger
                .claim(claim.sign(&key.tier_key(Tier::Orchestrator)).unwrap())
            {
                Ok(()) => break,
                Err(Refused::Taken | Refused::Conflict) => link += 1,
                Err(Refused::Down) => {
                    let refusal = gateway::Refusal {
                        code: EndCode::WakeDeadline,
                        retry_after_ms: Some(500),
                    };
                    return self.device_event(wire, gateway::Event::Started(Err(refusal)));
                }
            }
        }
        let ring = Keyring::new(self.keys.clone(), self.tenant.clone(), session);
        let mut upstream =
            Upstream::new(ring, terms.epoch, ask.request_id, ask.max_tokens).unwrap();
        let frames = upstream.forward(&ask.document).unwrap();
        let pod = self.open_pod(session, terms.epoch);
        let mut at = self.now;
        for frame in frames {
            at += 1 + self.rng.below(500);
            self.agenda.at(at, Item::ToPod(pod, frame));
        }
        self.answers.insert(
            session,
            Answer {
                request_id: ask.request_id,
                epoch: terms.epoch,
                upstream: Some(upstream),
                pod,
                tokens: Vec::new(),
                heard: Vec::new(),
                end: None,
                reader: Some(wire),
                next: 0,
            },
        );
        self.device_event(wire, gateway::Event::Started(Ok(())));
    }

    fn resume(
        &mut self,
        wire: u64,
        session: SessionId,
        terms: &Terms,
        request: RequestId,
        from: u32,
    ) {
        if !self.answers.contains_key(&session) {
            let ring = &mut Keyring::new(self.keys.clone(), self.tenant.clone(), session);
            let evidence = self.ledger.snapshot(&session).unwrap();
            let stored = StoredAnswer::find(&evidence, ring, request).unwrap();
            let Some(stored) = stored else {
                let refusal = gateway::Refusal {
                    code: EndCode::UnknownRequest,
                    retry_after_ms: None,
                };
                return self.device_event(wire, gateway::Event::Started(Err(refusal)));
            };
            let end = stored.end().unwrap().map(|end| end.to_json().unwrap());
            if end.is_none() {
                self.agenda
                    .at(self.now + 50 * MS, Item::CloseAnswer(session, request, 0));
            }
            self.answers.insert(
                session,
                Answer {
                    request_id: request,
                    epoch: terms.epoch,
                    upstream: None,
                    pod: u64::MAX,
                    tokens: stored.token_payloads(0..).unwrap(),
                    heard: Vec::new(),
                    end,
                    reader: None,
                    next: 0,
                },
            );
        }
        let answer = self.answers.get_mut(&session).unwrap();
        if answer.request_id != request {
            let refusal = gateway::Refusal {
                code: EndCode::Busy,
                retry_after_ms: Some(300),
            };
            return self.device_event(wire, gateway::Event::Started(Err(refusal)));
        }
        (answer.reader, answer.next) = (Some(wire), from as usize);
        self.device_event(wire, gateway::Event::Started(Ok(())));
        self.pump(session);
    }

    /// Hands the device what it does not have yet of an answer.
    fn pump(&mut self, session: SessionId) {
        while let Some(answer) = self.answers.get_mut(&session) {
            let Some(wire) = answer.reader else { return };
            if let Some(token) = answer.tokens.get(answer.next).cloned() {
                answer.next += 1;
                self.device_event(wire, gateway::Event::Token(&token));
            } else if let Some(end) = answer.end.clone() {
                self.answers.remove(&session);
                return self.device_event(wire, gateway::Event::Ended(&end));
            } else {
                return;
            }
        }
    }

    pub(super) fn pod_sent(&mut self, link: u64, message: &[u8]) {
        let found = self
            .answers
            .iter_mut()
            .find(|(_, answer)| answer.pod == link && answer.end.is_none());
        let Some((&session, answer)) = found else {
            return;
        };
        let Some(upstream) = &mut answer.upstream else {
            return;
        };
        match upstream.receive(message).expect("the pod is honest") {
            None => return,
            Some(Received::Notice(payload)) => {
                if let Some(wire) = answer.reader {
                    self.device_event(wire, gateway::Event::Token(&payload));
                }
                return;
            }
            Some(Received::Token { text, payload }) => {
                answer.tokens.push(payload);
                answer.heard.push(text);
            }
            Some(Received::End(_, document)) => {
                answer.end = Some(document);
                self.agenda
                    .at(self.now + MS, Item::PodSees(link, PodEvent::Closed));
            }
        }
        self.pump(session);
    }

    pub(super) fn pod_lost(&mut self, link: u64) {
        let found = self
            .answers
            .iter_mut()
            .find(|(_, answer)| answer.pod == link && answer.end.is_none());
        let Some((&session, answer)) = found else {
            return;
        };
        answer.upstream = None;
        let request = answer.request_id;
        // A pod that lives closes the answer by itself; it is given some time.
        let at = self.now + self.rng.below(800 * MS);
        self.agenda.at(at, Item::CloseAnswer(session, request, 0));
    }

    /// Ends an answer whose pod is gone: with the response that stands in the ledger, or with one of the gateway's own.
    pub(super) fn close_answer(&mut self, session: SessionId, request: RequestId, tries: u32) {
        let Some(answer) = self.answers.get(&session) else {
            return;
        };
        if answer.request_id != request || answer.end.is_some() {
            return;
        }
        let ring = &mut Keyring::new(self.keys.clone(), self.tenant.clone(), session);
        let evidence = self.ledger.snapshot(&session).unwrap();
        let stored = StoredAnswer::find(&evidence, ring, request)
            .unwrap()
            .expect("it was asked");
        let end = match stored.end().unwrap() {
            Some(end) => end,
            None if tries < 20 => {
                let closing = Closing {
                    epoch: answer.epoch,
                    content: ContentPolicy::Sealed,
                    id: ReceiptId::from_random(self.rng.bytes()),
                    now: time(self.now),
                };
                let block = stored
                    .interrupted("lost", &closing, &answer.heard, ring)
                    .unwrap();
                let written = self.ledger.append(&session, &block);
                self.note(format!("gateway: closes a lost answer: {written:?}"));
                self.agenda.at(
                    self.now + 100 * MS,
                    Item::CloseAnswer(session, request, tries + 1),
                );
                return;
            }
            None => EscalateEnd::bare(request, EndStatus::Failed, EndCode::LedgerUnavailable),
        };
        let answer = self.answers.get_mut(&session).unwrap();
        answer.end = Some(end.to_json().unwrap());
        self.pump(session);
    }
}

fn session_of(block: &Block) -> Option<SessionId> {
    assert_eq!(block.stream, Stream::Device);
    let first = block.receipts.first()?;
    Some(
        halo_receipts::receipt::Receipt::parse(&first.bytes)
            .ok()?
            .body
            .session_id,
    )
}
