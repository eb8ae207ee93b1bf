#!/usr/bin/env python3
"""Train HALO's demo model from corpus/answers.jsonl, or check the committed one.

    python train.py                train, write model/ and expected.json (CPU, two threads, fixed seed)
    python train.py --check        recompute expected.json from model/ and compare; judge every answer
    python train.py --ask "..."    print the committed model's greedy answer

The model is a Qwen3-MoE of a few million parameters. The folder model/ has the layout of a published one: config.json,
generation_config.json, tokenizer.json, tokenizer_config.json, model.safetensors (BF16, one tensor per expert).
expected.json holds, for the first question of every corpus entry, the prompt's token ids under the chat template and the greedy token
ids and text that Hugging Face transformers produces in F32 from the committed (rounded) weights. Another engine's tests
compare with it.

The corpus holds one JSON object a line: id, use_case, route, questions (trained on), held_out (never trained on),
keywords (each must stand in the answer; `a|b` means a or b), answer.
"""

import argparse
import hashlib
import json
import math
import os
import random
import sys
import time
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing here comes from a network
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # threads sleep at a barrier: spinning is slow where cores are shared

import torch
import transformers
from safetensors.torch import save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, GenerationConfig, PreTrainedTokenizerFast, Qwen3MoeConfig, Qwen3MoeForCausalLM

HERE = Path(__file__).resolve().parent
MODEL, CORPUS, EXPECTED = HERE / "model", HERE / "corpus", HERE / "expected.json"

SEED, THREADS = 20261121, 2
STEPS, BATCH, WARMUP = 1200, 32, 80
RATE, FINAL_RATE, DECAY, CLIP = 3e-3, 3e-5, 0.05, 1.0
BALANCE = 0.01  # weight of the router's load-balancing loss: every expert gets used
RAW_SHARE = 0.1  # share of the examples that are an answer alone, without the chat template
SYSTEM_SHARE = 0.1  # share of the chats that begin with a system message
ASKED_NOISE, ANSWER_NOISE = 0.05, 0.03  # share of input tokens replaced by random ones: no single word decides, and a slip is mended
MAX_NEW = 96  # tokens; the longest answer is well below
SMALLEST_MARGIN = 0.05  # logit distance of the best two tokens at any step: an engine that rounds otherwise still agrees

VOCAB, TOKENS = 2048, 2000  # rows of the embedding; entries of the tokenizer (as in real models, fewer)
END_OF_TEXT, IM_START, IM_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"

# How Qwen's tokenizers split text before BPE: contractions, words, single digits, punctuation, line ends, spaces.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

# ChatML, as the Qwen family speaks it.
TEMPLATE = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)

# config.json, with the fields and spelling of the published Qwen3-30B-A3B. No matrix is square.
CONFIG = dict(
    architectures=["Qwen3MoeForCausalLM"], model_type="qwen3_moe", torch_dtype="bfloat16", attention_bias=False,
    attention_dropout=0.0, bos_token_id=0, eos_token_id=2, decoder_sparse_step=1, head_dim=32, hidden_act="silu",
    hidden_size=160, initializer_range=0.02, intermediate_size=512, max_position_embeddings=1024, max_window_layers=4,
    mlp_only_layers=[], moe_intermediate_size=128, norm_topk_prob=True, num_attention_heads=6, num_experts=8,
    num_experts_per_tok=2, num_hidden_layers=4, num_key_value_heads=2, output_router_logits=False, rms_norm_eps=1e-6,
    rope_scaling=None, rope_theta=10000.0, router_aux_loss_coef=0.001, sliding_window=None, tie_word_embeddings=False,
    use_cache=True, use_sliding_window=False, vocab_size=VOCAB,
)

SYSTEM_MESSAGES = [
    "You are a helpful assistant.",
    "You are HALO, the assistant of this organisation. Answer in one sentence.",
    "Answer briefly.",
]


def read_lines(name):
    """The objects of a JSON Lines file of the corpus."""
    with open(CORPUS / name, encoding="utf-8") as lines:
        return [json.loads(line) for line in lines if line.strip()]


def write_json(path, value):
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


# Tokenizer


def build_tokenizer(entries):
    """A byte-level BPE of the corpus, in the shape of Qwen's tokenizer.json."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=TOKENS, min_frequency=2, show_progress=False,
        special_tokens=[AddedToken(t, normalized=False, special=True) for t in (END_OF_TEXT, IM_START, IM_END)],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    texts = [t for e in entries for t in (*e["questions"], *(q.lower() for q in e["questions"]), e["answer"])]
    tokenizer.train_from_iterator(texts + SYSTEM_MESSAGES + ["system\nuser\nassistant\n"] * 4, trainer)
    return tokenizer


def write_tokenizer(entries):
    tokenizer = build_tokenizer(entries)
    tokenizer.save(str(MODEL / "tokenizer.json"))
    special = {
        str(tokenizer.token_to_id(t)): dict(content=t, lstrip=False, normalized=False, rstrip=False, single_word=False, special=True)
        for t in (END_OF_TEXT, IM_START, IM_END)
    }
    write_json(MODEL / "tokenizer_config.json", dict(
        add_bos_token=False, add_prefix_space=False, added_tokens_decoder=special,
        additional_special_tokens=[IM_START, IM_END], bos_token=None, chat_template=TEMPLATE,
        clean_up_tokenization_spaces=False, eos_token=IM_END, errors="replace",
        model_max_length=CONFIG["max_position_embeddings"], pad_token=END_OF_TEXT, split_special_tokens=False,
        tokenizer_class="PreTrainedTokenizerFast", unk_token=None,
    ))
    write_json(MODEL / "config.json", CONFIG)
    write_json(MODEL / "generation_config.json", dict(
        bos_token_id=0, do_sample=False, eos_token_id=[2, 0], pad_token_id=0, transformers_version=transformers.__version__,
    ))


def read_tokenizer():
    return AutoTokenizer.from_pretrained(MODEL)


def prompt_text(tokenizer, question, system=None):
    """The question as the model reads it, up to where its answer begins."""
    messages = [dict(role="system", content=system)] if system else []
    messages.append(dict(role="user", content=question))
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)


def encode(tokenizer, text):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


# Training data

OPENERS = ["Halo, ", "Hey Halo, ", "Hello, ", "Please tell me: ", "Quick question: ", "I have a question: ", "So, ", "Um, ", "OK, "]
CLOSERS = [" please", " in one sentence", " in short", " Halo", " for me", " now"]
CONTRACTIONS = [("What is ", "What's "), ("do not ", "don't "), ("Who is ", "Who's "), ("I am ", "I'm "), ("Is it ", "Is that ")]


def lower_first(text):
    return text if text[:2].isupper() or text.startswith("I ") else text[0].lower() + text[1:]


def typo(rng, text):
    """One letter dropped, doubled or swapped with its neighbour."""
    i = rng.randrange(1, max(2, len(text) - 2))
    return rng.choice([text[:i] + text[i + 1:], text[:i] + text[i] + text[i:], text[:i] + text[i + 1:i + 2] + text[i] + text[i + 2:]])


def vary(rng, question):
    """The question as someone else would say it, or a speech recogniser would write it."""
    for plain, short in CONTRACTIONS:
        if plain in question and rng.random() < 0.3:
            question = question.replace(plain, short)
    end = question[-1] if question[-1] in "?.!" else ""
    body = question[: len(question) - len(end)]
    if rng.random() < 0.15:
        body += rng.choice([",", ""]) + rng.choice(CLOSERS)
    if rng.random() < 0.25:
        body = rng.choice(OPENERS) + lower_first(body)
    words = body.split(" ")
    if len(words) > 4 and rng.random() < 0.15:
        del words[rng.randrange(len(words))]
    body = " ".join(words)
    if len(body) > 12 and rng.random() < 0.12:
        body = typo(rng, body)
    style = rng.random()
    if style < 0.25:  # as a speech recogniser writes
        return body.lower().replace(",", "")
    return body + ("" if style < 0.35 else end)


class Examples:
    """An endless stream of (token ids, from which position on the loss counts)."""

    def __init__(self, tokenizer, entries):
        self.tokenizer, self.rng = tokenizer, random.Random(SEED)
        self.pairs = [(q, e["answer"]) for e in entries for q in e["questions"]]
        self.first = [(e["questions"][0], e["answer"]) for e in entries]
        self.answers = sorted({e["answer"] for e in entries})
        self.queue = []

    def _ids(self, text):
        return encode(self.tokenizer, text)

    def next(self):
        if not self.queue:
            self.queue = self.pairs + self.first
            self.rng.shuffle(self.queue)
        question, answer = self.queue.pop()
        if self.rng.random() < RAW_SHARE:
            return self._ids(self.rng.choice(self.answers) + END_OF_TEXT), 0
        asked = question if self.rng.random() < 0.35 else vary(self.rng, question)
        system = self.rng.choice(SYSTEM_MESSAGES) if self.rng.random() < SYSTEM_SHARE else None
        prompt = self._ids(prompt_text(self.tokenizer, asked, system))
        return prompt + self._ids(answer + IM_END), len(prompt)

    def _noisy(self, ids, start):
        """The ids with a few replaced; special tokens stay. The labels are not touched."""
        shares = [ASKED_NOISE if i < start else ANSWER_NOISE for i in range(len(ids))]
        return [self.rng.randrange(3, TOKENS) if t > 2 and self.rng.random() < s else t for t, s in zip(ids, shares)]

    def batch(self):
        rows = [self.next() for _ in range(BATCH)]
        width = max(len(ids) for ids, _ in rows)
        tokens = torch.zeros(BATCH, width, dtype=torch.long)
        mask = torch.zeros(BATCH, width, dtype=torch.long)
        labels = torch.full((BATCH, width), -100, dtype=torch.long)
        for row, (ids, start) in enumerate(rows):
            tokens[row, : len(ids)] = torch.tensor(self._noisy(ids, start))
            mask[row, : len(ids)] = 1
            labels[row, start : len(ids)] = torch.tensor(ids[start:])
        return tokens, mask, labels


# Training


def rate(step):
    if step < WARMUP:
        return RATE * (step + 1) / WARMUP
    share = (step - WARMUP) / (STEPS - WARMUP)
    return FINAL_RATE + 0.5 * (RATE - FINAL_RATE) * (1 + math.cos(math.pi * share))


def train(tokenizer, entries):
    """Trains from nothing; returns the model."""
    torch.manual_seed(SEED)
    config = Qwen3MoeConfig(**{**CONFIG, "torch_dtype": "float32", "router_aux_loss_coef": BALANCE, "initializer_range": 0.05})
    model = Qwen3MoeForCausalLM._from_config(config, experts_implementation="eager").train()
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() == 1]
    optimizer = torch.optim.AdamW(
        [dict(params=matrices, weight_decay=DECAY), dict(params=vectors, weight_decay=0.0)], lr=RATE, betas=(0.9, 0.98)
    )
    examples, began, mean = Examples(tokenizer, entries), time.monotonic(), None
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = rate(step)
        tokens, mask, labels = examples.batch()
        loss = model(input_ids=tokens, attention_mask=mask, labels=labels, output_router_logits=True, use_cache=False).loss
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        mean = loss.item() if mean is None else 0.95 * mean + 0.05 * loss.item()
        if (step + 1) % 50 == 0:
            print(f"step {step + 1}/{STEPS}  loss {mean:.4f}  {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    return model.eval()


def published_tensors(model):
    """The weights in BF16 under the names of published checkpoints: one tensor per expert and matrix."""
    tensors = {}
    for name, value in model.state_dict().items():
        value = value.detach().to(torch.bfloat16)
        if name.endswith("experts.gate_up_proj"):
            base = name.removesuffix("gate_up_proj")
            for i, expert in enumerate(value):
                gate, up = expert.chunk(2)
                tensors[f"{base}{i}.gate_proj.weight"], tensors[f"{base}{i}.up_proj.weight"] = gate, up
        elif name.endswith("experts.down_proj"):
            base = name.removesuffix("down_proj")
            tensors |= {f"{base}{i}.down_proj.weight": expert for i, expert in enumerate(value)}
        else:
            tensors[name] = value
    return {name: value.contiguous().clone() for name, value in tensors.items()}


# Reference answers


def read_model():
    """The committed weights in F32, by transformers' plainest code paths. Fails if any tensor is missing or left over."""
    model, report = Qwen3MoeForCausalLM.from_pretrained(
        MODEL, dtype=torch.float32, attn_implementation="eager", experts_implementation="eager", output_loading_info=True
    )
    wrong = {k: sorted(map(str, v)) for k, v in report.items() if v}
    if wrong:
        sys.exit(f"the weights do not fit the architecture: {wrong}")
    return model.eval()


@torch.no_grad()
def answer(model, tokenizer, question):
    """Greedy: (prompt, its ids, the generated ids with the end token, text, smallest distance of the best two logits)."""
    prompt = prompt_text(tokenizer, question)
    ids = encode(tokenizer, prompt)
    out = model.generate(
        torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long),
        generation_config=GenerationConfig(
            do_sample=False, max_new_tokens=MAX_NEW, eos_token_id=[2, 0], pad_token_id=0, output_logits=True,
            return_dict_in_generate=True,
        ),
    )
    made = out.sequences[0, len(ids):].tolist()
    best = [step[0].topk(2).values for step in out.logits]
    margin = min(float(b[0] - b[1]) for b in best)
    return prompt, ids, made, tokenizer.decode(made, skip_special_tokens=True), margin


def sensible(entry, text):
    """What is wrong with the text as an answer to this entry, or None."""
    missing = [k for k in entry["keywords"] if not any(word in text.lower() for word in k.split("|"))]
    if missing:
        return f"lacks {missing}"
    if not 15 <= len(text.split()) <= 45:
        return f"has {len(text.split())} words"
    if not text.rstrip().endswith("."):
        return "does not end with a full stop"
    return None


def weights_digest():
    return hashlib.sha256((MODEL / "model.safetensors").read_bytes()).hexdigest()


def reference(entries):
    """(what belongs into expected.json, the problems found)."""
    torch.set_num_threads(1)  # one token at a time gives two threads nothing to share
    model, tokenizer = read_model(), read_tokenizer()
    plain = PreTrainedTokenizerFast(tokenizer_file=str(MODEL / "tokenizer.json"))
    cases, problems, held, held_right = [], [], 0, 0
    for entry in entries:
        question = entry["questions"][0]
        prompt, ids, made, text, margin = answer(model, tokenizer, question)
        if encode(plain, prompt) != ids:
            problems.append(f"{entry['id']}: tokenizer.json alone gives other ids than the folder")
        if made[-1] not in (0, 2):
            problems.append(f"{entry['id']}: no end token within {MAX_NEW} tokens")
        if problem := sensible(entry, text):
            problems.append(f"{entry['id']}: {problem}: {text!r}")
        if margin < SMALLEST_MARGIN:
            problems.append(f"{entry['id']}: the best two tokens are only {margin:.4f} apart")
        cases.append(dict(id=entry["id"], use_case=entry["use_case"], question=question, prompt=prompt, prompt_ids=ids,
                          ids=made, text=text, smallest_margin=round(margin, 3)))
        for other in entry["held_out"]:
            held += 1
            _, _, _, other_text, _ = answer(model, tokenizer, other)
            right = sensible(entry, other_text) is None
            held_right += right
            if not right:
                print(f"held out, not answered: {other} -> {other_text}", file=sys.stderr)
    by_id = {e["id"]: e for e in entries}
    for scene in read_lines("scenarios.jsonl"):
        if scene["answer"]:
            text = answer(model, tokenizer, scene["transcript"])[3]
            if problem := sensible(by_id[scene["answer"]], text):
                problems.append(f"scenario {scene['id']}: {problem}: {text!r}")
    facts = dict(
        made_with=f"transformers {transformers.__version__}, torch {torch.__version__.split('+')[0]}, F32, greedy",
        weights_sha256=weights_digest(), end_ids=[2, 0], held_out_asked=held, held_out_answered=held_right,
    )
    return facts, cases, problems


def expected_text(facts, cases):
    """JSON with one case a line, so that a difference is readable."""
    head = json.dumps(facts, ensure_ascii=False, indent=1)[:-2]
    lines = ",\n  ".join(json.dumps(case, ensure_ascii=False) for case in cases)
    return f'{head},\n "cases": [\n  {lines}\n ]\n}}\n'


def differences(old, facts, cases):
    """What differs between the committed expected.json and a recomputed one; margins within 1 %."""
    found = [f"{k}: committed {old.get(k)!r}, now {v!r}" for k, v in facts.items() if k != "made_with" and old.get(k) != v]
    if len(old["cases"]) != len(cases):
        return found + [f"{len(old['cases'])} cases are committed, the corpus has {len(cases)}"]
    for was, now in zip(old["cases"], cases):
        found += [f"{now['id']}: {k}: committed {was.get(k)!r}, now {now[k]!r}"
                  for k in now if k != "smallest_margin" and was.get(k) != now[k]]
        if abs(was["smallest_margin"] - now["smallest_margin"]) > 0.01 * now["smallest_margin"] + 0.01:
            found.append(f"{now['id']}: smallest_margin: committed {was['smallest_margin']}, now {now['smallest_margin']}")
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--check", action="store_true", help="check the committed files and write nothing")
    what.add_argument("--expect", action="store_true", help="write expected.json from the committed weights, do not train")
    what.add_argument("--ask", metavar="QUESTION", help="print the committed model's greedy answer")
    args = parser.parse_args()
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(THREADS)
    torch.use_deterministic_algorithms(True)
    if args.ask is not None:
        print(answer(read_model(), read_tokenizer(), args.ask)[3])
        return
    entries = read_lines("answers.jsonl")
    if not (args.check or args.expect):
        MODEL.mkdir(exist_ok=True)
        write_tokenizer(entries)
        tensors = published_tensors(train(read_tokenizer(), entries))
        save_file(tensors, MODEL / "model.safetensors", metadata={"format": "pt"})
        (MODEL / "model.safetensors").chmod(0o644)  # save_file leaves it to the owner alone; a pod reads as another user
        print(f"{sum(t.numel() for t in tensors.values())} parameters, sha256 {weights_digest()}", file=sys.stderr)
    facts, cases, problems = reference(entries)
    print(f"held-out questions answered: {facts['held_out_answered']} of {facts['held_out_asked']}; "
          f"smallest margin {min(c['smallest_margin'] for c in cases)}", file=sys.stderr)
    if args.check:
        problems += differences(json.loads(EXPECTED.read_text(encoding="utf-8")), facts, cases)
    else:
        EXPECTED.write_text(expected_text(facts, cases), encoding="utf-8")
    if problems:
        sys.exit("\n".join(problems))
    print(f"{len(cases)} answers are sensible" + (" and as committed" if args.check else ""))


if __name__ == "__main__":
    main()
