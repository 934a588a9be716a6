#!/bin/sh
# Episodes -> labels -> a release -> behaviour cloning -> a reward model -> GRPO, every step naming the last one's
# output by id. With a Hub at HF_ENDPOINT that HF_TOKEN may write to; ORG is whose repositories they become.
# MODEL (default: a tiny random one, made on the spot) and PRESET (default: tiny) make it a real run:
#   ORG=my-org MODEL=Qwen/Qwen2.5-0.5B-Instruct PRESET=default sh examples/pipeline.sh
set -eu
PYTHON="${PYTHON:-python}"
WORK="${WORK:-./runs/pipeline}"
PRESET="${PRESET:-tiny}"
: "${ORG:?whose repositories: ORG=my-org}"
mkdir -p "$WORK"

run() {
  printf '\n$ python cli.py'
  printf ' %s' "$@"
  printf '\n'
  "$PYTHON" cli.py "$@" || [ $? -eq 3 ] # 3: done, with failures listed (one sample's evaluation failed on purpose)
}

if [ -z "${MODEL:-}" ]; then
  MODEL="$WORK/tiny"
  "$PYTHON" -m sotopia_rl_data.trainers.tiny "$MODEL"
fi

# Data: the bundled episodes, labelled offline, released as v1.0.0.
run import --name "$ORG/episodes" --store "$WORK/store"
run label "$ORG/episodes" --judge lexical --out "$ORG/rewards" --store "$WORK/store"
run push-to-hub "$ORG/rewards" --store "$WORK/store" --check files

# Training reads the release, from the Hub, into a store of its own.
DATA="$ORG/rewards@v1.0.0"
run train sft --dataset "$DATA" --model "$MODEL" --preset "$PRESET" --set adapter=none --store "$WORK/pulled" \
  --output "$WORK/sft" --push-to-hub "$ORG/policy-sft"
run train rm --dataset "$DATA" --model "$MODEL" --preset "$PRESET" --set adapter=none --store "$WORK/pulled" \
  --output "$WORK/rm" --push-to-hub "$ORG/reward-model"
run train grpo --dataset "$DATA" --model "$ORG/policy-sft@v1.0.0" --reward-model "$ORG/reward-model@v1.0.0" \
  --preset "$PRESET" --set adapter=none --store "$WORK/pulled" --output "$WORK/grpo" --push-to-hub "$ORG/policy"

# What came out is a stock model.
"$PYTHON" - "$ORG/policy" <<'END'
import sys
from transformers import AutoModelForCausalLM, AutoTokenizer
name = sys.argv[1]
model = AutoModelForCausalLM.from_pretrained(name, revision="v1.0.0")
tokenizer = AutoTokenizer.from_pretrained(name, revision="v1.0.0")
asked = [{"role": "user", "content": "You meet an old friend. Act."}]
ids = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_tensors="pt", return_dict=True)
said = model.generate(**ids, max_new_tokens=8, do_sample=False)[0, ids["input_ids"].shape[1] :]
print(f"\n{name}@v1.0.0 loads with transformers, and says {tokenizer.decode(said)!r}")
END
