// Every failure is a Qwen3Error with a code and a sentence that says what to do; the process survives all of them.
import { Qwen3, Qwen3Error } from 'qwen3'

const attempts = {
  'a model that is not there': () => Qwen3.load('./no-such-folder'),
  'an option out of range': async () => (await nano).chat('hi', { topP: 0 }),
  'a prompt that is too long': async () => await (await nano).chat('too long '.repeat(5000)).result(),
  'a closed model': async () => {
    const model = await Qwen3.load('nano')
    await model.close()
    model.chat('hi')
  },
}

const nano = Qwen3.load('nano')
for (const [name, attempt] of Object.entries(attempts)) {
  const error = await attempt().catch((error) => error)
  console.log(`${name}: ${error instanceof Qwen3Error ? error.code : error}\n  ${error.message}`)
}
await (await nano).close()
