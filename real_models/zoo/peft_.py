"""peft: adapters on a small Llama or BERT. The frozen base is drawn at random, as a checkpoint stands in for."""

from functools import partial
from typing import Any

from torch import nn

from real_models.zoo.case import add, load
from real_models.zoo.draw import named, tokens

BODY = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 96}
WITHOUT_TARGETS = {"PrefixTuningConfig", "PromptTuningConfig", "PromptEncoderConfig"}
ADAPTERS: dict[str, tuple[str, dict[str, Any]]] = {
    "lora": ("LoraConfig", {"r": 4}),
    "rslora-all": ("LoraConfig", {"r": 4, "use_rslora": True, "target_modules": "all-linear"}),
    "lora-pissa": ("LoraConfig", {"r": 4, "init_lora_weights": "pissa"}),
    "lora-noinit": ("LoraConfig", {"r": 4, "init_lora_weights": False}),
    "ia3": ("IA3Config", {"feedforward_modules": ["down_proj"], "target_modules": ["k_proj", "v_proj", "down_proj"]}),
    "adalora": ("AdaLoraConfig", {"total_step": 100}),
    "lokr": ("LoKrConfig", {"r": 4}),
    "vera": ("VeraConfig", {"r": 4}),
    "oft": ("OFTConfig", {"oft_block_size": 8, "r": 0}),
    "boft": ("BOFTConfig", {"boft_block_size": 8}),
    "hra": ("HRAConfig", {"r": 4}),
    "prefix": ("PrefixTuningConfig", {"num_virtual_tokens": 4}),
    "prompt": ("PromptTuningConfig", {"num_virtual_tokens": 4}),
    "ptuning": ("PromptEncoderConfig", {"num_virtual_tokens": 4, "encoder_hidden_size": 16}),
    "fourierft": ("FourierFTConfig", {"n_frequency": 16}),
    "bone": ("MissConfig", {"r": 4}),
    "randlora": ("RandLoraConfig", {"r": 4}),
}


def llama() -> nn.Module:
    library = load("transformers")
    return library.LlamaForCausalLM(library.LlamaConfig(**BODY, num_key_value_heads=4, use_cache=False))


def bert() -> nn.Module:
    library = load("transformers")
    return library.BertForSequenceClassification(library.BertConfig(**BODY))


def adapt(config: str, options: dict[str, Any], base: str = "llama") -> nn.Module:
    library = load("peft")
    targets = {} if config in WITHOUT_TARGETS else {"target_modules": ["q_proj", "v_proj"]}
    if base == "bert":
        return library.get_peft_model(
            bert(), getattr(library, config)(task_type="SEQ_CLS", target_modules=["query", "value"], **options)
        )
    return library.get_peft_model(llama(), getattr(library, config)(**{"task_type": "CAUSAL_LM", **targets, **options}))


for name, (config, options) in ADAPTERS.items():
    add(f"peft.{name}", partial(adapt, config, options), named(input_ids=tokens()))
add("peft.lora-bert", partial(adapt, "LoraConfig", {"r": 4}, "bert"), named(input_ids=tokens()))
