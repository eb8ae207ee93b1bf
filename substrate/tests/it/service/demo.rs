//! The demo model that is committed beside the code, asked over a real link.

use std::path::Path;

use halo_substrate::model::{Options, open};
use halo_substrate::pod::{PromptForm, Prompter};

use super::device::Device;
use super::server::Server;
use super::verify::verify;

#[derive(serde::Deserialize)]
struct Expected {
    weights_sha256: String,
    cases: Vec<Case>,
}

#[derive(serde::Deserialize)]
struct Case {
    question: String,
    prompt_ids: Vec<u32>,
    ids: Vec<u32>,
    text: String,
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_model_answers_as_its_makers_saw_it() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("demo-model");
    let text = std::fs::read(folder.join("expected.json")).unwrap();
    let expected: Expected = serde_json::from_slice(&text).unwrap();
    let model = open(&folder.join("model"), &Options::default()).unwrap();
    let twin = open(&folder.join("model"), &Options::default()).unwrap();
    let prompter = Prompter::new(
        twin.tokenizer,
        twin.template,
        PromptForm::Chat { thinking: false },
    );
    for case in &expected.cases {
        assert_eq!(
            prompter.encode(&case.question).unwrap(),
            case.prompt_ids,
            "{}",
            case.question
        );
    }
    assert_eq!(expected.weights_sha256.len(), 64);

    let server = Server::start_with(model, 1, 4).await;
    let mut device = Device::new(40);
    server.open(&device).await;
    let mut link = server.connect(&device, 0).await.unwrap();
    for case in expected.cases.iter().take(2) {
        let ask = device.ask(&case.question, case.ids.len() as u32);
        server.record(&device, &ask.stored).await;
        link.send(&ask.document()).await;
        let (tokens, end) = link.answer().await;
        assert_eq!(
            tokens.iter().map(|t| t.token_id).collect::<Vec<_>>(),
            case.ids
        );
        assert_eq!(
            tokens.iter().map(|t| t.text.as_str()).collect::<String>(),
            case.text
        );
        let told = verify(&device, &server.evidence(&device).await)
            .pop()
            .unwrap();
        told.assert_streamed(&tokens);
        assert_eq!(end.receipts, [told.response_receipt]);
        assert_eq!(told.response.finish, "stop");
        // Every token of a mixture of experts has used some in every layer.
        assert!(
            told.loads
                .iter()
                .all(|load| (0..load.experts.layers()).all(|l| load.experts.layer(l).count() > 0))
        );
    }
}
