/** A checkpoint whose matrices went through a format and back to f32: what the format costs, and nothing else. */
import { copyFileSync, existsSync, mkdirSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { fileTypes, type GgufFormat, typesByName } from './gguf'
import { readSafetensors, writeSafetensors } from './safetensors'
import type { OwnType } from './tensor-tool'

/** Norms stay, and so does the router of a mixture: in this library and in the peer. */
const isMatrix = (name: string) => !name.endsWith('norm.weight') && !name.endsWith('mlp.gate.weight')

/** Writes the folder anew, with the types that the format gives to each tensor. */
export function roundedCheckpoint(directory: string, format: GgufFormat | OwnType, folder: string): string {
  rmSync(folder, { recursive: true, force: true })
  mkdirSync(folder, { recursive: true })
  for (const file of ['config.json', 'tokenizer.json', 'tokenizer_config.json', 'generation_config.json'])
    if (existsSync(join(directory, file))) copyFileSync(join(directory, file), join(folder, file))
  const types = Object.hasOwn(fileTypes, format) ? typesByName(directory, format as GgufFormat) : undefined
  const typeOf = (name: string) => types?.get(name) ?? (isMatrix(name) ? (format as OwnType) : 'F32')
  const tensors = [...readSafetensors(join(directory, 'model.safetensors'))].map(([name, source]) => ({
    name,
    shape: name.endsWith('norm.weight') ? [source.cols] : [source.rows, source.cols],
    type: typeOf(name),
    decoded: true,
    source,
  }))
  writeSafetensors(join(folder, 'model.safetensors'), tensors)
  return folder
}
