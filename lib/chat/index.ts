/** What a prompt is, how a request is planned, and how its tokens become events. */
export { Chat, type ChatCapabilities, type ChatDescription, type RenderedPrompt, type RenderOptions } from './chat'
export { EventAssembler } from './events'
export { planGenerate, type RequestPlan, WRAP_UP, wrapUpIds } from './plan'
export { decideSampling, presets, type Sampling } from './presets'
export { ChatTemplate, type MarkedText, RESERVED_ARGUMENTS } from './template'
export { type ChatTokenizer, controlIds, TokenBytes } from './tokens'
