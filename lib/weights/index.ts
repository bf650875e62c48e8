/** From a model's name to one checked description of its files; no tensor byte is read here. */
export { type ModelConfig, parseConfig } from './config'
export { type DescribeOptions, describeModel, type ModelDescription } from './describe'
export { familyConfig, familyRows } from './family'
export type { GenerationConfig, TemplateFiles } from './generation'
export { estimateMemory, type MemoryEstimate, type MemoryOptions, yarnFor } from './memory'
export { builtinModels, modelsDirectory, nearNames } from './names'
export type { StoredTensor } from './safetensors'
export { type ExpectedTensor, expectedTensors } from './tensors'
