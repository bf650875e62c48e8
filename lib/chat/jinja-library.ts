/**
 * `@huggingface/jinja` for CommonJS. The package has a CommonJS build, but its types claim to be an ES module only, so a
 * plain import does not compile here.
 */
import { createRequire } from 'node:module'

type Library = typeof import('@huggingface/jinja', { with: { 'resolution-mode': 'import' }})

export const { Environment, Interpreter, parse, tokenize } = createRequire(__filename)('@huggingface/jinja') as Library
export type Environment = InstanceType<Library['Environment']>
