// Each result brings the message for the next turn. The cache keeps what was computed: turn two only reads what is new.
import { Qwen3 } from 'qwen3'

const model = await Qwen3.load('nano')
try {
  const messages = [{ role: 'system', content: 'Work carefully.' }]
  for (const question of ['What is 42+35?', 'What is 68-23+17?']) {
    messages.push({ role: 'user', content: question })
    const { text, message, usage } = await model.chat(messages, { seed: 2 }).result()
    messages.push(message)
    console.log(`${question} ${text} (${usage.promptTokens} prompt tokens, ${usage.cachedTokens} from the cache)`)
  }
} finally {
  await model.close()
}
