//! Reads a session back as an auditor does: every signature, every parent, every seal, and what was said.

use std::collections::HashMap;

use halo_receipts::chain::{Chain, Event};
use halo_receipts::evidence::{Evidence, Stream};
use halo_receipts::ids::{Hash, Tier};
use halo_receipts::merkle;
use halo_receipts::messages::Token;
use halo_receipts::payload::{
    AnswerContent, ContentPolicy, ExpertLoad, SubstrateResponse, TokenContent,
};
use halo_receipts::receipt::Receipt;

use super::device::Device;

/// One answer as the ledger holds it.
pub struct Told {
    pub loads: Vec<ExpertLoad>,
    pub tokens: Vec<TokenContent>,
    /// The hashes of the answer's receipts, in ledger order.
    pub hashes: Vec<Hash>,
    pub response: SubstrateResponse,
    pub response_receipt: Receipt,
}

impl Told {
    /// Whether these are the hashes, ids and texts that were streamed.
    pub fn assert_streamed(&self, tokens: &[Token]) {
        let streamed: Vec<Hash> = tokens
            .iter()
            .flat_map(|t| [t.expert_load, t.token_emit])
            .collect();
        assert_eq!(streamed, self.hashes);
        let contents: Vec<TokenContent> = tokens
            .iter()
            .map(|t| TokenContent {
                token_id: t.token_id,
                text: t.text.clone(),
            })
            .collect();
        if !self.tokens.is_empty() {
            assert_eq!(contents, self.tokens);
        }
    }
}

/// Checks everything that a session's stream `s` must be, and returns its answers. Fails on an answer without a seal.
pub fn verify(device: &Device, evidence: &Evidence) -> Vec<Told> {
    let mut chain = Chain::new(device.session, device.tenant.clone());
    for (_, _, stored) in evidence.in_causal_order() {
        let receipt = Receipt::parse(&stored.bytes).unwrap();
        let key = device.key_of(receipt.body.session_epoch, receipt.body.tier);
        assert!(receipt.verify(&key), "{:?}", receipt.body);
        let event = Event::read(&receipt.body, stored.payload.as_deref()).unwrap();
        chain.accept(&receipt, &event).unwrap();
    }
    let blocks: HashMap<u32, usize> = evidence
        .blocks
        .iter()
        .filter(|block| block.stream == Stream::Substrate)
        .map(|block| (block.first, block.content.as_ref().unwrap().len()))
        .collect();
    let mut answers = Vec::new();
    let (mut loads, mut tokens, mut hashes, mut times) = (vec![], vec![], vec![], vec![]);
    let mut first = 0;
    for (number, stored) in evidence.receipts(Stream::Substrate) {
        let receipt = Receipt::parse(&stored.bytes).unwrap();
        let key = device
            .key_of(receipt.body.session_epoch, Tier::Substrate)
            .payload_key();
        let id = receipt.body.receipt_id;
        times.push(receipt.body.timestamp_utc);
        match Event::read(&receipt.body, stored.payload.as_deref()).unwrap() {
            Event::ExpertLoad(load) => {
                loads.push(load);
                hashes.push(receipt.hash());
            }
            Event::TokenEmit(token) => {
                if device.content == ContentPolicy::Sealed {
                    tokens.push(
                        token
                            .private()
                            .unwrap()
                            .open::<TokenContent>(&key, &id)
                            .unwrap(),
                    );
                } else {
                    assert!(
                        token
                            .private()
                            .unwrap()
                            .open::<TokenContent>(&key, &id)
                            .is_err()
                    );
                }
                hashes.push(receipt.hash());
            }
            Event::SubstrateResponse(response) => {
                assert_eq!(response.first, first);
                assert_eq!(response.receipts as usize, hashes.len());
                assert_eq!(response.completion_tokens as usize, loads.len());
                assert_eq!(response.root, merkle::root(&hashes));
                let mut at = 0;
                for block in &response.blocks {
                    let end = at + block.count as usize;
                    assert_eq!(block.first, first + at as u32);
                    assert_eq!(blocks[&block.first], block.count as usize);
                    assert_eq!(block.root, merkle::root(&hashes[at..end]));
                    at = end;
                }
                assert_eq!(at, hashes.len());
                assert_eq!(blocks[&number], 1, "the seal stands in a block of its own");
                assert_eq!(response.first_receipt_id.is_some(), !hashes.is_empty());
                if device.content == ContentPolicy::Sealed {
                    let content: AnswerContent =
                        response.private().unwrap().open(&key, &id).unwrap();
                    let output: String = tokens
                        .iter()
                        .map(|t: &TokenContent| t.text.as_str())
                        .collect();
                    assert_eq!(content.output_sha256, Hash::of(output.as_bytes()));
                }
                for (step, load) in loads.iter().enumerate() {
                    assert_eq!(load.step as usize, step);
                    assert_eq!(load.model.is_some(), step == 0);
                }
                assert!(times.is_sorted());
                answers.push(Told {
                    loads: std::mem::take(&mut loads),
                    tokens: std::mem::take(&mut tokens),
                    hashes: std::mem::take(&mut hashes),
                    response,
                    response_receipt: receipt,
                });
                first = number + 1;
                times.clear();
            }
            other => panic!("stream s holds {other:?}"),
        }
    }
    assert!(hashes.is_empty(), "an answer without a seal");
    answers
}
