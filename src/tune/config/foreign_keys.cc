// The peer's keys that nothing here reads, and what is said about them.
#include "tune/config/config_keys.h"

namespace polylora {
namespace {

constexpr auto kNotice = ForeignKeys::Answer::kNotice;
constexpr auto kRefuse = ForeignKeys::Answer::kRefuse;

std::vector<ForeignKeys> keys_of_the_machine() {
  return {
      {"deepspeed fsdp fsdp_min_num_params fsdp_config fsdp_transformer_layer_cls_to_wrap accelerator_config "
       "parallelism_config ddp_backend ddp_timeout ddp_find_unused_parameters ddp_bucket_cap_mb "
       "ddp_broadcast_buffers ddp_static_graph local_rank tpu_num_cores tpu_metrics_debug mp_parameters "
       "use_ray "
       "ray_scope ray_num_workers ray_init_kwargs resources_per_worker placement_strategy ray_run_name "
       "ray_storage_path ray_storage_filesystem master_addr master_port use_mca use_hyper_parallel",
       kNotice, "false,-1", "one machine, one process"},
      {"average_tokens_across_devices save_on_each_node log_on_each_node data_shared_file_system", kNotice,
       "*", ""},
      {"use_unsloth use_unsloth_gc enable_liger_kernel use_liger_kernel liger_kernel_config use_v1_kernels "
       "flash_attn use_ipex torch_compile torch_compile_backend torch_compile_mode torchdynamo jit_mode_eval "
       "enable_jit_checkpoint fp8_backend fp8_enable_fsdp_float8_all_gather",
       kNotice, "auto,false", "the kernels of this program are used"},
      {"fp8 fp16_opt_level half_precision_backend fp16_backend bf16_full_eval fp16_full_eval tf32", kNotice,
       "auto,false", "bf16 decides how weights are computed with, and everything else is f32"},
      {"upcast_layernorm upcast_lmhead_output full_determinism no_cuda use_cpu", kNotice, "*", ""},
      {"use_mps_device low_cpu_mem_usage offload_folder torch_empty_cache_steps skip_memory_metrics "
       "auto_find_batch_size eval_accumulation_steps eval_use_gather_object",
       kNotice, "true,false,offload",
       "weights and activations are in this machine's memory, sized before step 1"},
      {"gradient_checkpointing gradient_checkpointing_kwargs use_reentrant_gc", kNotice, "true",
       "activations are recomputed unless disable_gradient_checkpointing is true"},
      {"dataloader_num_workers dataloader_pin_memory dataloader_persistent_workers "
       "dataloader_prefetch_factor "
       "preprocessing_num_workers",
       kNotice, "0,true,false", "data is read once, before step 1"},
      {"overwrite_cache", kNotice, "*", ""},
      {"streaming buffer_size", kNotice, "false", "data is read whole, before step 1"},
  };
}

std::vector<ForeignKeys> keys_of_services() {
  return {
      {"report_to", kNotice, "none", "metrics go to trainer_log.jsonl in output_dir"},
      {"logging_dir project trackio_space_id use_swanlab swanlab_project swanlab_workspace swanlab_run_name "
       "swanlab_mode swanlab_api_key swanlab_logdir swanlab_lark_webhook_url swanlab_lark_secret",
       kNotice, "false", "metrics go to trainer_log.jsonl in output_dir"},
      {"push_to_hub hub_model_id hub_strategy hub_token hub_private_repo hub_always_push hub_revision "
       "push_to_hub_model_id push_to_hub_organization push_to_hub_token",
       kNotice, "false", "nothing is uploaded"},
      {"cache_dir hf_hub_token ms_hub_token om_hub_token", kNotice, "",
       "the environment variables HF_HUB_CACHE and HF_TOKEN say where downloads go and who asks for them"},
      {"trust_remote_code use_fast_tokenizer", kNotice, "*", ""},
      {"log_level log_level_replica logging_nan_inf_filter debug print_param_status", kNotice, "*", ""},
      {"infer_backend infer_dtype use_kv_cache use_cache do_sample temperature top_p top_k num_beams "
       "max_length "
       "max_new_tokens repetition_penalty length_penalty skip_special_tokens generation_max_length "
       "generation_num_beams generation_config eval_num_beams vllm_maxlen vllm_gpu_util vllm_enforce_eager "
       "vllm_max_lora_rank vllm_config sglang_maxlen sglang_mem_fraction sglang_tp_size sglang_config "
       "sglang_lora_backend use_kt kt_optimize_rule cpu_infer chunk_size mode kt_maxlen kt_use_cuda_graph "
       "kt_mode "
       "kt_force_think",
       kNotice, "auto,huggingface", "training generates no text; polylora serve takes its own flags"},
      {"export_dir export_size export_device export_quantization_bit export_quantization_dataset "
       "export_quantization_nsamples export_quantization_maxlen export_legacy_format export_hub_model_id "
       "format",
       kNotice, "", "they are keys of polylora export"},
  };
}

std::vector<ForeignKeys> keys_of_other_methods() {
  return {
      {"finetuning_type", kRefuse, "lora", "polylora trains LoRA adapters; set finetuning_type: lora",
       ErrorCode::kUnsupported},
      {"freeze_trainable_layers freeze_trainable_modules freeze_extra_modules", kNotice, "",
       "they belong to finetuning_type freeze"},
      {"module_dropout oft_rank oft_block_size oft_target", kNotice, "",
       "they belong to finetuning_type oft"},
      {"ppo_buffer_size ppo_epochs ppo_score_norm ppo_target ppo_whiten_rewards reward_model "
       "reward_model_adapters reward_model_quantization_bit reward_model_type",
       kNotice, "", "they belong to stage ppo"},
      {"kto_chosen_weight kto_rejected_weight", kNotice, "1", "they belong to stage kto"},
      {"simpo_gamma", kNotice, "0.5", "it belongs to pref_loss simpo"},
      {"pref_loss", kRefuse, "sigmoid", "only sigmoid is implemented; remove the key"},
      {"pref_bco_weight", kRefuse, "0", "the loss has no such term here; remove the key"},
      {"ld_alpha", kRefuse, "", "the loss has no such term here; remove the key"},
      {"ref_model ref_model_adapters ref_model_quantization_bit", kRefuse, "",
       "the reference is always the base model without the adapter; remove the key"},
      {"galore_target galore_rank galore_update_interval galore_scale galore_proj_type galore_layerwise "
       "apollo_target apollo_rank apollo_update_interval apollo_scale apollo_proj apollo_proj_type "
       "apollo_scale_type apollo_layerwise apollo_scale_front badam_mode badam_start_block badam_switch_mode "
       "badam_switch_interval badam_update_ratio badam_mask_mode badam_verbose",
       kNotice, "", "the optimizer is AdamW"},
      {"use_galore use_apollo use_badam use_adam_mini use_muon adafactor", kRefuse, "false",
       "the optimizer is AdamW; remove the key"},
      {"optim_args optim_target_modules", kRefuse, "",
       "AdamW reads adam_beta1, adam_beta2, adam_epsilon and weight_decay"},
      {"use_llama_pro mixture_of_depths train_from_scratch", kRefuse, "false",
       "polylora trains LoRA adapters of a model as it is; remove the key"},
      {"use_dft_loss use_asft_loss use_eaft_loss", kRefuse, "false",
       "the loss is cross-entropy; remove the key"},
      {"asft_alpha eaft_alpha", kNotice, "", "the loss is cross-entropy"},
      {"label_smoothing_factor", kRefuse, "0", "the loss is plain cross-entropy; remove the key"},
      {"moe_aux_loss_coef", kRefuse, "0", "the loss has no such term here; remove the key"},
      {"quantization_method quantization_type double_quantization quantization_device_map", kNotice, "",
       "with quantization_bit, a base of 4 or 8 bits is held as q4 or q8 blocks of 32 weights"},
      {"rope_scaling shift_attn", kRefuse, "false",
       "attention is the model's own, as its config.json says; remove the key"},
      {"freeze_vision_tower freeze_multi_modal_projector freeze_language_model image_max_pixels "
       "image_min_pixels "
       "image_do_pan_and_scan crop_to_patches video_max_pixels video_min_pixels video_fps video_maxlen "
       "use_audio_in_video audio_sampling_rate media_dir",
       kNotice, "*", ""},
  };
}

std::vector<ForeignKeys> keys_of_the_trainer() {
  return {
      {"do_predict predict_with_generate", kRefuse, "false",
       "train writes no predictions; serve the adapter (polylora serve) and ask it"},
      {"tokenized_path", kRefuse, "", "data is tokenised at every start, in seconds; remove the key"},
      {"tool_format", kRefuse, "", "the template's own format is used; remove the key"},
      {"preserve_thinking", kRefuse, "false",
       "earlier turns lose their thinking, as the templates have it; remove the key"},
      {"ignore_pad_token_for_loss", kRefuse, "true",
       "rows are not padded, so there is nothing to count; remove the key"},
      {"split_special_tokens", kRefuse, "false", "special tokens in the data stay whole; remove the key"},
      {"resize_vocab add_tokens add_special_tokens new_special_tokens_config", kRefuse, "false",
       "tokens cannot be added to a vocabulary yet; remove the key"},
      {"init_special_tokens", kNotice, "*", ""},
      {"run_name", kNotice, "*", ""},
      {"adapter_folder", kRefuse, "", "give the folder itself in adapter_name_or_path"},
      {"per_gpu_train_batch_size", kRefuse, "", "its name is per_device_train_batch_size"},
      {"per_gpu_eval_batch_size", kRefuse, "", "its name is per_device_eval_batch_size"},
      {"eval_delay", kRefuse, "0", "evaluation starts with the first eval_steps; remove the key"},
      {"dataloader_drop_last", kRefuse, "false", "every example is trained on; remove the key"},
      {"ignore_data_skip", kRefuse, "false", "a resumed run goes on with the next batch; remove the key"},
      {"train_sampling_strategy", kRefuse, "random", "use group_by_length or disable_shuffling"},
      {"sortish_sampler", kRefuse, "false", "use group_by_length"},
      {"save_safetensors", kRefuse, "true", "adapters are always written as safetensors; remove the key"},
      {"past_index", kRefuse, "-1", "models here have no such output; remove the key"},
      {"label_names", kRefuse, "labels", "labels come from the data; remove the key"},
      {"include_inputs_for_metrics include_for_metrics batch_eval_metrics eval_do_concat_batches "
       "prediction_loss_only remove_unused_columns length_column_name include_tokens_per_second "
       "restore_callback_states_from_checkpoint use_legacy_prediction_loop",
       kNotice, "*", ""},
  };
}

}  // namespace

const std::vector<ForeignKeys>& foreign_train_keys() {
  static const std::vector<ForeignKeys> all = [] {
    std::vector<ForeignKeys> rows;
    for (const auto& group :
         {keys_of_the_machine(), keys_of_services(), keys_of_other_methods(), keys_of_the_trainer()}) {
      rows.insert(rows.end(), group.begin(), group.end());
    }
    return rows;
  }();
  return all;
}

}  // namespace polylora
